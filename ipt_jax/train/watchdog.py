"""Stack traces of all threads when a run makes no progress, to explain a hang from its log."""

from __future__ import annotations

import faulthandler
import sys
import time
from typing import Self


class Watchdog:
    """Writes the stacks of all threads to stderr when no step ends for some time, repeatedly.

    It uses the timer of `faulthandler`, which also runs while a library holds the interpreter's
    lock.

    Args:
      seconds: the time without a step after which to write; 0 for never.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._started = 0.0

    def __enter__(self) -> Self:
        self._start()
        return self

    def step_ended(self) -> None:
        """Restarts the timer; calls within a tenth of its time are ignored, which is cheaper."""
        if time.monotonic() - self._started > self._seconds / 10:
            self._start()

    def __exit__(self, *exc: object) -> None:
        if self._seconds:
            faulthandler.cancel_dump_traceback_later()

    def _start(self) -> None:
        self._started = time.monotonic()
        if not self._seconds:
            return
        try:
            faulthandler.dump_traceback_later(self._seconds, repeat=True, file=sys.stderr)
        except (OSError, ValueError, RuntimeError, AttributeError):
            # The stderr of a notebook is not a file, and a closed one has no descriptor.
            self._seconds = 0.0
