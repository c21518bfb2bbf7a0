"""Stacks of all threads on stderr when a run makes no progress, so that a hang can be explained
from its log.
"""

from __future__ import annotations

import faulthandler
import io
import sys
import time
from typing import Self


class Watchdog:
    """While it lasts: writes every thread's stack when `step_ended` was not called for so many
    seconds, and again after each as many. Python's own timer, which also runs while a library holds
    the interpreter's lock.

    Args:
      seconds: that many; 0 = never.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._set = 0.0

    def __enter__(self) -> Self:
        self._start()
        return self

    def step_ended(self) -> None:
        """Starts to count anew (to a tenth of the time, which makes it cheap)."""
        if time.monotonic() - self._set > self._seconds / 10:
            self._start()

    def __exit__(self, *exc: object) -> None:
        if self._seconds:
            faulthandler.cancel_dump_traceback_later()

    def _start(self) -> None:
        self._set = time.monotonic()
        if not self._seconds:
            return
        try:
            faulthandler.dump_traceback_later(self._seconds, repeat=True, file=sys.stderr)
        # A notebook's stderr is no file
        except (io.UnsupportedOperation, AttributeError):
            self._seconds = 0.0
