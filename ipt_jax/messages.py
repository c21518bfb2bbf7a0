"""Wording that messages share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def first_line(error: Exception) -> str:
    """The first line of another library's error, to be quoted in one of ours."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def listed(names: Iterable[str], limit: int = 5) -> str:
    """The first names of many, and how many more there are."""
    names = list(names)
    return ", ".join(names[:limit]) + (
        f" and {len(names) - limit} more" if len(names) > limit else ""
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a message: ' (did you mean X?)', or '' when nothing is near."""
    match = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""
