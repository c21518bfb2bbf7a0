"""Wording that messages share."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

# Unicode's categories of control and format characters, surrogates, and line and paragraph
# separators.
_UNPRINTABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(text: object) -> str:
    """Returns a text of foreign origin, such as a file name, so that it can be printed on one line.

    Control characters, which could move the cursor or begin a new line, and bytes that are not
    UTF-8 (surrogates) become escapes such as `\\n`, `\\x1b` and `\\udcff`. Format characters, which
    include those that reverse the direction of writing, and line separators are escaped as well.
    """
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char) in _UNPRINTABLE
        else char
        for char in str(text)
    )


def without_controls(text: object) -> str:
    """Does the same for a message that may have several lines: newlines and tabs stay."""
    return "\n".join(
        "\t".join(printable(part) for part in line.split("\t")) for line in str(text).split("\n")
    )


def first_line(error: Exception) -> str:
    """Returns the first line of another library's error, or the error's type if it has no text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def listed(names: Iterable[str], limit: int = 5) -> str:
    """Returns the first `limit` names, and the number of the remaining ones: "a, b and 7 more"."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(printable, names[:limit])) + more


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns a hint for a message, " (did you mean 'X'?)", or "" if no known name is similar."""
    match = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""
