"""A connection to another process of a run."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any


class Peer:
    """One connection, and what is known of who is at its other end."""

    def __init__(self, connection: socket.socket, host: str):
        self.connection, self.host = connection, host
        self._lock = threading.Lock()
        self._buffer = b""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            ("TCP_KEEPIDLE", 10),
            ("TCP_KEEPINTVL", 5),
            ("TCP_KEEPCNT", 4),
            ("TCP_NODELAY", 1),
        ):
            # MacOS names them otherwise
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def name(self, index: int) -> str:
        return f"process {index} ({self.host})" if self.host else f"process {index}"

    def closed(self) -> bool:
        """Whether the other end has closed (before anything of it is read)."""
        try:
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def send(self, message: Mapping[str, Any]) -> None:
        with self._lock:
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def messages(self) -> Iterator[dict[str, Any]]:
        """Until the other end closes. OSError on a broken connection, ValueError on what is no
        message.
        """
        while True:
            line, end, rest = self._buffer.partition(b"\n")
            if end:
                self._buffer = rest
                message = json.loads(line)
                if not isinstance(message, dict):
                    raise ValueError(f"not a message: {message!r}")
                yield message
                continue
            data = self.connection.recv(65536)
            if not data:
                return
            self._buffer += data
