"""Wording that messages share, and their output, which never ends a run."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, cast

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


# OSError: no space, no reader, no terminal. ValueError: Python has closed the stream. RuntimeError:
# a signal handler prints while the interrupted code is printing.
_LOST = (OSError, ValueError, RuntimeError)


class GuardedStream:
    """A text stream whose `write` and `flush` never raise an error of the output.

    Characters that the stream's encoding lacks are written as escapes. Attributes that are not
    defined here are those of the stream.

    Args:
      stream: a text stream; None, as Python sets `sys.stderr` where there is none, drops all text.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes a text; returns its length, whether it was written or dropped."""
        if self._stream is None:
            return len(text)
        try:
            self._stream.write(text)
        except UnicodeEncodeError as error:
            encoding = error.encoding
            escaped = text.encode(encoding, "backslashreplace").decode(encoding)
            with contextlib.suppress(*_LOST):
                self._stream.write(escaped)
        except _LOST:
            pass
        return len(text)

    def flush(self) -> None:
        """Flushes the stream."""
        if self._stream is not None:
            with contextlib.suppress(*_LOST):
                self._stream.flush()

    def isatty(self) -> bool:
        """Returns whether the stream is a terminal."""
        with contextlib.suppress(AttributeError, *_LOST):
            return bool(self._stream.isatty())
        return False

    def fileno(self) -> int:
        """Returns the stream's descriptor. Raises io.UnsupportedOperation if there is none."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return int(self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        # `copy` asks for attributes before `__init__` has set the stream.
        if name == "_stream":
            raise AttributeError(name)
        return getattr(self._stream, name)


def _guard(stream: Any) -> TextIO:
    return cast(TextIO, stream if isinstance(stream, GuardedStream) else GuardedStream(stream))


def stdout() -> TextIO:
    """Returns the present `sys.stdout`, guarded."""
    return _guard(sys.stdout)


def stderr() -> TextIO:
    """Returns the present `sys.stderr`, guarded."""
    return _guard(sys.stderr)


def say(text: str) -> None:
    """Prints a line on stdout."""
    print(text, file=stdout(), flush=True)


def say_error(text: str) -> None:
    """Prints a line on stderr."""
    print(text, file=stderr(), flush=True)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Guards `sys.stdout` and `sys.stderr` within the block."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = stdout(), stderr()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def guard_process() -> None:
    """Guards `sys.stdout` and `sys.stderr` until this process ends, also its last flush.

    A standard descriptor that is closed becomes /dev/null. Otherwise the next file that is opened,
    such as a checkpoint, would get its number, and libraries would write messages into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The kernel gives the lowest free number, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout, sys.stderr = stdout(), stderr()
