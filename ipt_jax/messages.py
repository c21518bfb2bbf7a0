"""Wording that messages share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def first_line(error: Exception) -> str:
    """Returns the first line of another library's error, or the error's type if it has no text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def listed(names: Iterable[str], limit: int = 5) -> str:
    """Returns the first `limit` names, and the number of the remaining ones: "a, b and 7 more"."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns a hint for a message, " (did you mean 'X'?)", or "" if no known name is similar."""
    match = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""
