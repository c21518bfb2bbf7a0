"""SIGTERM and Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from ipt_jax import log
from ipt_jax.distributed import process_group as hosts

logger = log.logger


# Seconds that data have to come after a signal, before the run is saved without the step that needs
# them
GRACE = 20.0


class StopSignals:
    """While it lasts, SIGTERM and Ctrl-C ask for a stop after the step under way; a second one
    stops at once.

    A step that still waits for its data is not waited for longer than `GRACE`. With several
    processes, a signal to any of them stops all after the same step, so that this one is waited
    for. Python runs handlers between two of its instructions, so not while the main thread waits in
    XLA, and once for all signals of a kind that come meanwhile: they are counted elsewhere. A
    second SIGTERM then still ends the process, a second Ctrl-C interrupts when XLA returns.
    """

    def __init__(self, line: hosts.ProcessGroup) -> None:
        self._line = line
        self._signal = ""
        self._since = float("inf")
        self._now = False
        self._before: dict[int, Any] = {}
        self._counter: _SignalCounter | None = None

    @property
    def name(self) -> str:
        """The signal that stopped the run, and the process that got it if there are several."""
        return self._line.stopped_by

    def requested(self, step: int) -> bool:
        """Whether to stop before batch `step`, the same in all processes.

        Raises:
          Lost: another process has gone or reported an error.
        """
        if self._signal and self._line.stop_at is None:
            self._line.ask_stop(step, self._signal)
        return self._line.stops(step)

    def impatient(self) -> bool:
        """Whether data that have not come yet are to be given up."""
        return self._now or (self._line.count == 1 and time.monotonic() - self._since > GRACE)

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._on_signal)
            # Not the main thread, as in a notebook's helper: then nothing is caught
            except ValueError:
                return self
        self._counter = _SignalCounter(lambda: self._signal != "", lambda: self._now)
        return self

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal, self._since = signal.Signals(number).name, time.monotonic()
        logger.warning(
            "%s: finishing the step, saving and leaving; once more to leave at once", self._signal
        )
        signal.signal(signal.SIGTERM, self._before.pop(signal.SIGTERM))
        signal.signal(signal.SIGINT, self._on_second)

    def _on_second(self, number: int, frame: FrameType | None) -> None:
        self._now = True
        self._restore()
        raise KeyboardInterrupt

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def __exit__(self, *exc: object) -> None:
        self._restore()
        if self._counter is not None:
            self._counter.close()


class _SignalCounter:
    """Hears of signals when they come, in a thread: ends the process at a second SIGTERM, and sees
    to a second Ctrl-C.

    Args:
      first: whether the main thread has been told of a signal.
      second: whether it has been interrupted.
    """

    def __init__(self, first: Callable[[], bool], second: Callable[[], bool]) -> None:
        self._first, self._second = first, second
        self._closed = threading.Event()
        self._ear, self._mouth = socket.socketpair()
        self._mouth.setblocking(False)
        self._before = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        # An event loop's, as in some notebooks: that has to hear of its signals
        if self._before != -1:
            signal.set_wakeup_fd(self._before)
            return
        threading.Thread(target=self._listen, name="ipt-signals", daemon=True).start()

    def _listen(self) -> None:
        heard, interrupting = b"", False
        while numbers := self._ear.recv(16):
            heard += numbers
            if heard.count(signal.SIGTERM) > 1:
                os._exit(128 + signal.SIGTERM)
            if len(heard) > 1 and signal.SIGINT in numbers and not interrupting:
                interrupting = True
                threading.Thread(target=self._interrupt, name="ipt-interrupt", daemon=True).start()

    def _interrupt(self) -> None:
        """Python forgets a signal that comes before its handler has run for the one before: sends
        it again.
        """
        while not self._first():
            if self._closed.wait(0.1):
                return
        if not self._closed.wait(0.5) and not self._second():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def close(self) -> None:
        self._closed.set()
        if self._before == -1:
            signal.set_wakeup_fd(-1)
        self._mouth.close()
