"""The line between the processes of a run: who is there, do they agree, when to stop, who has gone.

jax's own coordination ends a process by abort() with a stack trace when another one is missing or
dies. So each process keeps one TCP connection to process 0, next to jax's, which knows at once when
a process goes: its kernel closes the connection, and a host that loses power answers no keep-alive.
Messages are JSON, one a line. Every wait has a limit and says for whom it waits. A single process
has the same interface and no connection.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ipt_jax.distributed.peer import Peer
from ipt_jax.errors import Lost
from ipt_jax.log import logger
from ipt_jax.messages import listed

# Seconds: for data to be opened, a checkpoint to be read, ... by the slowest process
WAIT = 1800.0

# Seconds that a process has to leave by itself, which it cannot within a collective
GRACE = 20.0

# Seconds between two lines about who is waited for
SAY = 15.0

# Steps that another process can be ahead of one that asks for a stop: see `Line.ask_stop`
LEAD = 2


class ProcessGroup:
    """The processes of a run, seen from one of them. `connect` makes one for several processes;
    `Line()` is one alone.

    Attributes:
      index, count: this process and how many there are.
      stop_at: the step after which all stop, once one has asked for it, else None.
      stopped_by: the signal and the process that asked.
    """

    def __init__(self, index: int = 0, count: int = 1):
        self.index, self.count = index, count
        self.stop_at: int | None = None
        self.stopped_by = ""
        # Process 0: all others; others: process 0
        self._peers: dict[int, Peer] = {}
        self._news = threading.Condition()
        self._values: dict[str, dict[int, Any]] = {}
        self._answers: dict[str, list[Any]] = {}
        self._acknowledged: set[int] = set()
        self._agreed = False
        self._gone: set[int] = set()
        self._trouble = ""
        self._left = False

    def _add(self, index: int, peer: Peer) -> None:
        self._peers[index] = peer

    def _listen(self) -> None:
        for index, peer in self._peers.items():
            threading.Thread(
                target=self._read, args=(index, peer), name=f"ipt-hosts-{index}", daemon=True
            ).start()

    # What a run asks.

    def check(self) -> None:
        """Raises Lost if another process has gone or reported an error."""
        if self._trouble:
            raise Lost(self._trouble)

    def gather(self, what: str, value: Any, limit: float = WAIT) -> list[Any]:
        """The values (JSON) of all processes, in their order; waits until all have come, so it is a
        barrier, too.

        Raises:
          Lost: one has gone, or did not come within `limit` seconds; the message names those.
        """
        if self.count == 1:
            return [value]
        if self.index:
            self._send(0, {"gather": what, "value": value})
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
        """Makes all processes stop after the same step; returns when all know it.

        To be called between two steps. Who asks at step s keeps the others from finishing step s +
        1. Each of them reads a step's metrics after it has begun the next, so none has begun more
           than s + 2 before all know.
        """
        request = {"stop": step + LEAD, "why": f"{why} to process {self.index}"}
        if self.count == 1:
            self.stop_at, self.stopped_by = step, why
            return
        if self.index:
            self._send(0, request)
        else:
            self._decide(request)
        self._wait(
            lambda: self._agreed,
            lambda: set(range(self.count)) - self._acknowledged - {self.index},
            limit,
            "stop",
        )

    def stops(self, step: int) -> bool:
        """Whether the run is to stop before it takes batch `step`. Raises Lost as `check` does."""
        self.check()
        return self.stop_at is not None and step >= self.stop_at

    def trouble(self, limit: float = 3.0) -> str:
        """What is wrong with another process, or "". Waits a little for the news, which a failed
        collective precedes.
        """
        with self._news:
            self._news.wait_for(lambda: self._trouble or self.count == 1, timeout=limit)
        return self._trouble

    def fault(self, text: str) -> None:
        """Tells the others that this process ends with an error; process 0 then waits for them, to
        be the last.
        """
        if self.count == 1 or self._left:
            return
        self._left = True
        # Else they know what happened before
        if not self._trouble:
            self._broadcast(
                {
                    "fault": f"process {self.index} ({socket.gethostname()}) ended with: "
                    f"{text.strip()}"
                }
            )
        # Jax's service lives here, and its end would abort the others
        if self.index == 0:
            with self._news:
                self._news.wait_for(lambda: self._gone >= set(self._peers), timeout=GRACE + 5)

    def leave(self) -> None:
        """The orderly end, when all have come to it: the others will not take it for a death.
        Raises Lost.
        """
        if self.count == 1 or self._left:
            return
        # An error of another process still counts
        self.gather("end", None, limit=120)
        self._left = True
        for index in self._peers:
            self._send(index, {"bye": self.index})

    # How it is done.

    def _wait(
        self, done: Callable[[], bool], missing: Callable[[], Any], limit: float, what: str
    ) -> None:
        end, said = time.monotonic() + limit, time.monotonic()
        with self._news:
            while not done():
                self.check()
                left = end - time.monotonic()
                if left <= 0:
                    names = _processes(missing())
                    raise Lost(
                        f"no word from {names} for {limit:.0f} s at {what!r}: look at the log there"
                    )
                self._news.wait(min(left, 1.0))
                if time.monotonic() - said > SAY:
                    said = time.monotonic()
                    logger.info("waiting for %s at %r", _processes(missing()), what)

    def _send(self, index: int, message: Mapping[str, Any]) -> None:
        # Its end is read from the same connection
        with contextlib.suppress(OSError):
            self._peers[index].send(message)

    def _broadcast(self, message: Mapping[str, Any], but: int | None = None) -> None:
        for index in self._peers:
            if index != but:
                self._send(index, message)

    def _read(self, index: int, peer: Peer) -> None:
        polite = False
        try:
            for message in peer.messages():
                polite = polite or "bye" in message
                with self._news:
                    self._take(index, message)
                    self._news.notify_all()
        except (OSError, ValueError):
            pass
        with self._news:
            self._gone.add(index)
            if not polite:
                self._bad(f"{peer.name(index)} has gone: look at the end of its log", index)
            self._news.notify_all()

    def _take(self, index: int, message: Mapping[str, Any]) -> None:
        if "gather" in message:
            self._values.setdefault(message["gather"], {})[index] = message["value"]
        elif "answer" in message:
            self._answers[message["answer"]] = message["values"]
        elif "stop" in message:
            self._decide(message)
        elif "stopping" in message:
            self.stop_at, self.stopped_by = message["stopping"], message["why"]
            self._send(0, {"knows": self.index})
        elif "knows" in message:
            self._acknowledged.add(index)
            if len(self._acknowledged) == len(self._peers):
                self._agreed = True
                self._broadcast({"agreed": True})
        elif "agreed" in message:
            self._agreed = True
        elif "fault" in message:
            self._bad(message["fault"], index)

    def _decide(self, request: Mapping[str, Any]) -> None:
        """Process 0: the first one that asks decides for all."""
        with self._news:
            if self.stop_at is None:
                self.stop_at, self.stopped_by = request["stop"], request["why"]
                self._broadcast({"stopping": self.stop_at, "why": self.stopped_by})
            elif self._agreed:
                self._broadcast({"agreed": True})

    def _bad(self, text: str, source: int) -> None:
        if self._trouble or self._left:
            return
        self._trouble = text
        if self.index == 0:
            self._broadcast({"fault": text}, but=source)
        threading.Thread(target=self._end_soon, name="ipt-hosts-end", daemon=True).start()

    def _end_soon(self) -> None:
        """Ends this process if it does not by itself, as when it is in a collective that waits for
        a dead process.
        """
        time.sleep(GRACE)
        print(f"ipt: {self._trouble}", file=sys.stderr, flush=True)
        os._exit(1)


def _processes(indices: Any) -> str:
    numbers = sorted(indices)
    return ("process " if len(numbers) == 1 else "processes ") + listed(map(str, numbers), 16)
