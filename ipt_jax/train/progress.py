"""The progress line, and the clock of training time."""

from __future__ import annotations

import time
from typing import Self

from ipt_jax import messages


class Progress:
    """A line that is rewritten on a terminal; elsewhere, one line per report.

    Args:
      active: whether to print; only process 0 of a run does.
    """

    def __init__(self, active: bool):
        self._active = active
        self._terminal = messages.stderr().isatty()

    def show(self, text: str) -> None:
        """Prints a report on stderr."""
        if self._active:
            stream = messages.stderr()
            stream.write(f"\r\x1b[2K{text}" if self._terminal else f"{text}\n")
            stream.flush()

    def end(self) -> None:
        """Ends the line on a terminal."""
        if self._active and self._terminal:
            messages.stderr().write("\n")


def duration(seconds: float) -> str:
    """Returns a time as 1:02:03 or 2:03."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Clock:
    """The training time since the last report, and the part of it spent waiting for data.

    Time in a `with` block of the clock counts as waiting.
    """

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._waited = 0.0
        self._wait_began = 0.0

    def __enter__(self) -> Self:
        self._wait_began = time.perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        self._waited += time.perf_counter() - self._wait_began

    def skip(self, seconds: float) -> None:
        """Excludes so many seconds from the training time."""
        self._began += seconds

    def report(self) -> tuple[float, float]:
        """Returns the seconds since the last report, and the share of them spent waiting."""
        now = time.perf_counter()
        seconds, waited = now - self._began, self._waited
        self._began, self._waited = now, 0.0
        return seconds, waited / max(seconds, 1e-9)
