"""A connection to another process of a run: JSON messages, one per line."""

from __future__ import annotations

import contextlib
import json
import math
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ipt_jax.messages import listed, printable

# Bytes of the longest message between the processes of a run, and of the first message on a
# connection, when the other end may still be a stranger.
LARGEST_MESSAGE = 64 << 20
LARGEST_HELLO = 4096

# An idle connection is probed after 10 s, every 5 s, and closed after 4 probes without an answer.
# macOS has these options under other names.
_KEEP_ALIVE = (
    ("TCP_KEEPIDLE", 10),
    ("TCP_KEEPINTVL", 5),
    ("TCP_KEEPCNT", 4),
    ("TCP_NODELAY", 1),
)


class Peer:
    """One connection, and the host at its other end.

    Args:
      connection: a connected TCP socket.
      host: the name of the host at the other end, "" if it is not known yet.
    """

    def __init__(self, connection: socket.socket, host: str):
        self.connection, self.host = connection, host
        self._lock = threading.Lock()
        self._buffer = b""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEP_ALIVE:
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def name(self, index: int) -> str:
        """Returns the name of the process at the other end, for messages."""
        return f"process {index} ({self.host})" if self.host else f"process {index}"

    def closed(self) -> bool:
        """Returns whether the other end has closed and no message of it is left to read."""
        try:
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends a message. Raises OSError if the connection is broken."""
        with self._lock:
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def try_send(self, message: Mapping[str, Any]) -> None:
        """Sends a message; ignores a broken connection, which the reader of `messages` notices."""
        with contextlib.suppress(OSError):
            self.send(message)

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yields messages until the other end closes.

        Raises:
          OSError: the connection is broken.
          ValueError: the other end sent something that is not a message, or more than
            `LARGEST_MESSAGE` bytes without an end.
        """
        while True:
            message = self._next_message(LARGEST_MESSAGE)
            if message is not None:
                yield message
                continue
            data = self.connection.recv(65536)
            if not data:
                return
            self._buffer += data

    def first_message(self, end: float, wait: float = math.inf) -> dict[str, Any] | None:
        """Returns the first message of a process that may be a stranger.

        Args:
          end: the time of `time.monotonic` at which the message must be complete, however many
            bytes have come by then.
          wait: seconds to wait now. It is below the time until `end` where several connections are
            read in turns.

        Returns:
          The message, or None if it has not come within `wait` seconds.

        Raises:
          OSError: the connection is broken or closed, or `end` has passed (TimeoutError).
          ValueError: what came is not a message, or is longer than `LARGEST_HELLO`.
        """
        stop = min(end, time.monotonic() + wait)
        while True:
            message = self._next_message(LARGEST_HELLO)
            if message is not None:
                return message
            now = time.monotonic()
            if now >= end:
                raise TimeoutError("it did not introduce itself in time")
            self.connection.settimeout(max(0.0, stop - now))
            try:
                data = self.connection.recv(LARGEST_HELLO)
            except (TimeoutError, BlockingIOError):
                if stop < end:
                    return None
                continue
            if not data:
                raise ConnectionError("it closed the connection")
            self._buffer += data

    def _next_message(self, largest: int) -> dict[str, Any] | None:
        """Returns the next complete message that has come, or None.

        Raises:
          ValueError: it is not a message, or longer than `largest`.
        """
        line, end, rest = self._buffer.partition(b"\n")
        if len(line) > largest:
            raise ValueError(f"more than {largest:,} bytes without the end of a message")
        if not end:
            return None
        self._buffer = rest
        try:
            message = json.loads(line)
        except RecursionError:
            raise ValueError("not a message: it is nested too deeply") from None
        if not isinstance(message, dict):
            raise ValueError(f"not a message: {printable(message)[:80]}")
        return message


def process_names(indices: Iterable[int]) -> str:
    """Returns "process 3" or "processes 1, 3", for messages."""
    numbers = sorted(indices)
    return ("process " if len(numbers) == 1 else "processes ") + listed(map(str, numbers), 16)
