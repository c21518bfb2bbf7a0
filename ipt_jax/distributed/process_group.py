"""Coordination of a run's processes: barriers, agreement, common stop, failure detection.

JAX's own coordination service ends a process by abort() with a stack trace when another process is
missing or dies. Therefore each process also keeps one TCP connection to process 0. It reports a
dead process at once: the kernel of a dead process closes the connection, and a host that loses
power does not answer keep-alive probes. Messages are JSON, one per line. Every wait has a limit and
names the processes that it waits for. A single process has the same interface and no connection.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ipt_jax.distributed.peer import Peer, process_names
from ipt_jax.errors import Lost
from ipt_jax.log import logger
from ipt_jax.messages import say_error, without_controls

# Seconds that a barrier waits for the slowest process, which may open data or read a checkpoint.
WAIT = 1800.0

# Seconds that a process has to end by itself after another one failed. Within a collective of JAX
# it cannot, and is ended.
GRACE = 20.0

# Seconds between two log lines about the processes that are waited for.
REPORT_EVERY = 15.0

# The number of steps that another process can be ahead of the one that asks for a stop: see
# `ProcessGroup.ask_stop`.
LEAD = 2


class ProcessGroup:
    """The processes of a run, seen from one of them.

    `rendezvous.connect` makes a group of several processes; `ProcessGroup()` is a single process.

    Args:
      index: this process, from 0.
      count: the number of processes.
      peers: connections that have been made: on process 0 to all others, on others to process 0.

    Attributes:
      index, count: as above.
      stop_at: the step after which all processes stop, once one has asked for a stop; else None.
      stopped_by: the signal that asked for the stop, and the process that received it.
    """

    def __init__(self, index: int = 0, count: int = 1, peers: Mapping[int, Peer] | None = None):
        self.index, self.count = index, count
        self.stop_at: int | None = None
        self.stopped_by = ""
        self._peers = dict(peers or {})
        self._news = threading.Condition()
        self._values: dict[str, dict[int, Any]] = {}
        self._answers: dict[str, list[Any]] = {}
        self._acknowledged: set[int] = set()
        self._agreed = False
        self._gone: set[int] = set()
        self._trouble = ""
        self._left = False
        for number, peer in self._peers.items():
            threading.Thread(
                target=self._read, args=(number, peer), name=f"ipt-peer-{number}", daemon=True
            ).start()

    def check(self) -> None:
        """Raises Lost if another process has gone or reported an error."""
        if self._trouble:
            raise Lost(self._trouble)

    def gather(self, what: str, value: Any, limit: float = WAIT) -> list[Any]:
        """Returns the values of all processes, in their order. This is also a barrier.

        Args:
          what: a name for the barrier, the same in all processes.
          value: JSON.
          limit: seconds to wait for the other processes.

        Raises:
          Lost: a process has gone, or did not come within `limit` seconds; the message names it.
        """
        if self.count == 1:
            return [value]
        if self.index:
            self._peers[0].try_send({"gather": what, "value": value})
            self._wait(lambda: what in self._answers, lambda: [0], limit, what)
        else:
            with self._news:
                values = self._values.setdefault(what, {})
                values[0] = value
            self._wait(
                lambda: len(values) == self.count,
                lambda: set(range(self.count)) - set(values),
                limit,
                what,
            )
            with self._news:
                self._answers[what] = [self._values[what][i] for i in range(self.count)]
                del self._values[what]
            self._broadcast({"answer": what, "values": self._answers[what]})
        with self._news:
            return self._answers.pop(what)

    def ask_stop(self, step: int, why: str, limit: float = 60.0) -> None:
        """Makes all processes stop after the same step; returns when all of them know the step.

        Call it between two steps. A process that asks at step s keeps the others from finishing
        step s + 1. Each of them reads the metrics of a step after it has begun the next one, so
        none has begun more than step s + 2 before all know.

        Args:
          step: the number of steps that this process has begun.
          why: the signal.
          limit: seconds to wait for the other processes.

        Raises:
          Lost: as `gather`.
        """
        request = {"stop": step + LEAD, "why": f"{why} to process {self.index}"}
        if self.count == 1:
            self.stop_at, self.stopped_by = step, why
            return
        if self.index:
            self._peers[0].try_send(request)
        else:
            self._decide(request)
        self._wait(
            lambda: self._agreed,
            lambda: set(range(self.count)) - self._acknowledged - {self.index},
            limit,
            "stop",
        )

    def stops(self, step: int) -> bool:
        """Returns whether the run stops before batch `step` is taken. Raises Lost as `check`."""
        self.check()
        return self.stop_at is not None and step >= self.stop_at

    def trouble(self, limit: float = 3.0) -> str:
        """Returns what is wrong with another process, or "".

        It waits up to `limit` seconds for the news: when a process dies, a collective fails before
        the closed connection is noticed.
        """
        with self._news:
            self._news.wait_for(lambda: self._trouble or self.count == 1, timeout=limit)
        return self._trouble

    def fault(self, text: str) -> None:
        """Tells the other processes that this one ends with an error.

        Process 0 then waits for the others to end first: it hosts JAX's service, and the end of
        that service would abort them.
        """
        if self.count == 1 or self._left:
            return
        self._left = True
        # After trouble elsewhere, the others know the cause already.
        if not self._trouble:
            where = f"process {self.index} ({socket.gethostname()})"
            self._broadcast({"fault": f"{where} ended with: {text.strip()}"})
        if self.index == 0:
            with self._news:
                self._news.wait_for(lambda: self._gone >= set(self._peers), timeout=GRACE + 5)

    def leave(self) -> None:
        """Ends in an orderly way, when all processes do, so that none takes it for a death.

        Raises:
          Lost: another process reported an error until now.
        """
        if self.count == 1 or self._left:
            return
        self.gather("end", None, limit=120)
        self._left = True
        self._broadcast({"bye": self.index})

    def _wait(
        self,
        done: Callable[[], bool],
        missing: Callable[[], Iterable[int]],
        limit: float,
        what: str,
    ) -> None:
        """Waits until `done`. Raises Lost after `limit` seconds, and as `check`."""
        end, reported = time.monotonic() + limit, time.monotonic()
        with self._news:
            while not done():
                self.check()
                left = end - time.monotonic()
                if left <= 0:
                    raise Lost(
                        f"timed out after {limit:.0f} s waiting for {process_names(missing())} at "
                        f"barrier {what!r}; see the log on that host"
                    )
                self._news.wait(min(left, 1.0))
                if time.monotonic() - reported > REPORT_EVERY:
                    reported = time.monotonic()
                    logger.info("waiting for %s at barrier %r", process_names(missing()), what)

    def _broadcast(self, message: Mapping[str, Any], but: int | None = None) -> None:
        for index, peer in self._peers.items():
            if index != but:
                peer.try_send(message)

    def _read(self, index: int, peer: Peer) -> None:
        """Handles the messages of another process until it closes its connection, in a thread."""
        polite = False
        try:
            for message in peer.messages():
                polite = polite or "bye" in message
                with self._news:
                    self._handle(index, message)
                    self._news.notify_all()
        # What follows treats a broken connection, or one that sends nonsense, as a closed one.
        except Exception:
            pass
        with self._news:
            self._gone.add(index)
            if not polite:
                self._fail(f"{peer.name(index)} has gone; see the end of its log", index)
            self._news.notify_all()

    def _handle(self, index: int, message: Mapping[str, Any]) -> None:
        if "gather" in message:
            self._values.setdefault(message["gather"], {})[index] = message["value"]
        elif "answer" in message:
            self._answers[message["answer"]] = message["values"]
        elif "stop" in message:
            self._decide(message)
        elif "stopping" in message:
            self.stop_at, self.stopped_by = message["stopping"], message["why"]
            self._peers[0].try_send({"knows": self.index})
        elif "knows" in message:
            self._acknowledged.add(index)
            if len(self._acknowledged) == len(self._peers):
                self._agreed = True
                self._broadcast({"agreed": True})
        elif "agreed" in message:
            self._agreed = True
        elif "fault" in message:
            self._fail(without_controls(message["fault"])[:10_000], index)

    def _decide(self, request: Mapping[str, Any]) -> None:
        """Process 0's part of a stop: the first request decides for all processes."""
        with self._news:
            if self.stop_at is None:
                self.stop_at, self.stopped_by = request["stop"], request["why"]
                self._broadcast({"stopping": self.stop_at, "why": self.stopped_by})
            elif self._agreed:
                self._broadcast({"agreed": True})

    def _fail(self, text: str, source: int) -> None:
        """Notes the first failure; process 0 passes it to all processes but its source."""
        if self._trouble or self._left:
            return
        self._trouble = text
        if self.index == 0:
            self._broadcast({"fault": text}, but=source)
        threading.Thread(target=self._end_soon, name="ipt-end", daemon=True).start()

    def _end_soon(self) -> None:
        """Ends this process after `GRACE` seconds, which it may spend in a collective.

        A collective that waits for a dead process does not return.
        """
        time.sleep(GRACE)
        say_error(f"ipt: {self._trouble}")
        os._exit(1)
