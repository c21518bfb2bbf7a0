"""SIGTERM, SIGINT (Ctrl-C) and SIGHUP (the terminal was closed): the run saves and ends."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from ipt_jax.distributed.process_group import ProcessGroup
from ipt_jax.log import logger

# Seconds after a signal to wait for the data of the next step. After that the run is saved without
# that step.
GRACE = 20.0


class StopSignals:
    """Within its block, SIGTERM, SIGINT and SIGHUP ask for a stop after the current step.

    A second SIGTERM or SIGINT ends the run at once. SIGHUP never does: a terminal that is closed
    may send it twice, or along with SIGTERM. A process that ignores SIGHUP already, because `nohup`
    started it, continues to ignore it. A step whose data have not come `GRACE` seconds after the
    first signal is given up. With several processes, a signal to any of them stops all of them
    after the same step; then no step is given up.

    Python runs its signal handlers in the main thread, between two instructions: not while the
    thread waits in XLA, and only once for several signals of a kind that arrive meanwhile.
    Therefore a thread counts the signals as they arrive, so that a second SIGTERM ends the process
    even then, and a second SIGINT interrupts when XLA returns.

    Args:
      group: the processes of the run.
    """

    def __init__(self, group: ProcessGroup) -> None:
        self._group = group
        self._signal = ""
        self._armed = False
        self._name = ""
        self._since = float("inf")
        self._now = False
        self._previous_handlers: dict[int, Any] = {}
        self._counter: _SignalCounter | None = None

    @property
    def name(self) -> str:
        """The signal that stopped the run and, if there are several, the process that got it."""
        return self._group.stopped_by or self._name

    def requested(self, step: int) -> bool:
        """Returns whether to stop before batch `step`; the answer is the same in all processes.

        Raises:
          Lost: another process has gone or reported an error.
        """
        if self._signal and self._group.stop_at is None:
            self._group.ask_stop(step, self._signal)
        return self._group.stops(step)

    def anywhere(self, where: str) -> bool:
        """Returns whether any process has received a signal; the answer is the same in all of them.

        Unlike `requested`, this is a barrier, for the time after the last step.

        Args:
          where: a name for the barrier, the same in all processes.

        Raises:
          Lost: another process has gone or reported an error.
        """
        signals = self._group.gather(f"signal at {where}", self._signal)
        received = [(name, index) for index, name in enumerate(signals) if name]
        if received:
            name, index = received[0]
            self._name = name if self._group.count == 1 else f"{name} to process {index}"
        return bool(received)

    def impatient(self) -> bool:
        """Returns whether to give up waiting for data."""
        if self._now:
            return True
        return self._group.count == 1 and time.monotonic() - self._since > GRACE

    def __enter__(self) -> StopSignals:
        handlers = {signal.SIGTERM: self._on_signal, signal.SIGINT: self._on_signal}
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            handlers[signal.SIGHUP] = self._on_hangup
        for number, handler in handlers.items():
            try:
                self._previous_handlers[number] = signal.signal(number, handler)
            except ValueError:
                # Only the main thread can set handlers. In another one, as a notebook may use,
                # signals are not caught.
                return self
        self._counter = _SignalCounter(lambda: self._armed, lambda: self._now)
        return self

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        name = self._note(number)
        logger.warning(
            "%s: saving after this step, then exiting. Send it again to exit immediately.", name
        )
        signal.signal(signal.SIGTERM, self._previous_handlers.pop(signal.SIGTERM))
        signal.signal(signal.SIGINT, self._on_second)
        self._armed = True

    def _on_hangup(self, number: int, frame: FrameType | None) -> None:
        if not self._signal:
            logger.warning("%s: saving after this step, then exiting.", self._note(number))

    def _note(self, number: int) -> str:
        """Asks for a stop if no signal has done so; returns the name of this signal."""
        name = signal.Signals(number).name
        if not self._signal:
            self._signal, self._since = name, time.monotonic()
        return name

    def _on_second(self, number: int, frame: FrameType | None) -> None:
        self._now = True
        self._restore()
        raise KeyboardInterrupt

    def _restore(self) -> None:
        while self._previous_handlers:
            signal.signal(*self._previous_handlers.popitem())

    def __exit__(self, *exc: object) -> None:
        self._restore()
        if self._counter is not None:
            self._counter.close()


class _SignalCounter:
    """Counts signals as they arrive, in a thread.

    A second SIGTERM ends the process. A second SIGINT that Python merges with the first one is sent
    again.

    Args:
      first: returns whether the handler of the first signal has run.
      second: returns whether the handler of a second SIGINT has run.
    """

    def __init__(self, first: Callable[[], bool], second: Callable[[], bool]) -> None:
        self._first, self._second = first, second
        self._closed = threading.Event()
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        self._previous = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        if self._previous != -1:
            # An event loop, as in some notebooks, needs to receive the signals itself.
            signal.set_wakeup_fd(self._previous)
            return
        threading.Thread(target=self._listen, name="ipt-signals", daemon=True).start()

    def _listen(self) -> None:
        seen, interrupting = b"", False
        while received := self._receiver.recv(16):
            # Other signals with a Python handler, such as SIGHUP, arrive here as well.
            numbers = bytes(n for n in received if n in (signal.SIGTERM, signal.SIGINT))
            seen += numbers
            if seen.count(signal.SIGTERM) > 1:
                os._exit(128 + signal.SIGTERM)
            if len(seen) > 1 and signal.SIGINT in numbers and not interrupting:
                interrupting = True
                threading.Thread(target=self._interrupt, name="ipt-interrupt", daemon=True).start()

    def _interrupt(self) -> None:
        """Sends SIGINT again once the handler of the first signal has run.

        Python drops a signal that arrives before the handler of the one before it has run.
        """
        while not self._first():
            if self._closed.wait(0.1):
                return
        if not self._closed.wait(0.5) and not self._second():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def close(self) -> None:
        """Stops counting."""
        self._closed.set()
        if self._previous == -1:
            signal.set_wakeup_fd(-1)
        self._sender.close()
