"""A relay between JAX and its coordination service, so that JAX does not notice a death first.

When process 0 dies, its end of every connection is closed. JAX aborts the other processes as soon
as it sees that, with a stack trace that names nobody. The process group sees the same and ends a
process with a message that names process 0, but needs a moment for it: a checkpoint may be under
way. Therefore JAX connects to this relay, which passes everything on to process 0 and keeps JAX's
connection open for a while after that to process 0 has broken.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time

from ipt_jax.distributed.process_group import GRACE

# Seconds for which JAX's connection stays open after that to process 0 has broken; by then the
# process group has ended this process.
HELD = GRACE + 10


def start_relay(address: tuple[str, int], limit: float) -> str:
    """Starts the relay in threads of this process.

    Args:
      address: host and port of JAX's coordination service.
      limit: seconds to wait for the service.

    Returns:
      The relay's own address, `HOST:PORT`, which only this machine can reach.
    """
    server = socket.create_server(("127.0.0.1", 0))
    _without_http_proxy("127.0.0.1")

    def accept() -> None:
        while True:
            connection = server.accept()[0]
            _in_thread(_serve, connection, address, limit)

    _in_thread(accept)
    return f"127.0.0.1:{server.getsockname()[1]}"


def _serve(connection: socket.socket, address: tuple[str, int], limit: float) -> None:
    """Connects one connection of JAX to the service."""
    upstream = _connect(address, limit)
    if upstream is None:
        connection.close()
        return
    for end in (connection, upstream):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _in_thread(_pump, connection, upstream)
    _pump(upstream, connection)
    time.sleep(HELD)
    connection.close()
    upstream.close()


def _connect(address: tuple[str, int], limit: float) -> socket.socket | None:
    """Returns a connection to the service, which may not have started yet, or None."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            upstream = socket.create_connection(address, timeout=10)
            upstream.settimeout(None)
            return upstream
        time.sleep(0.1)
    return None


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Copies bytes until one of the two connections breaks or `source` ends."""
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)


def _in_thread(function: object, *arguments: object) -> None:
    threading.Thread(
        target=function,  # type: ignore[arg-type]
        args=arguments,
        name="ipt-relay",
        daemon=True,
    ).start()


def _without_http_proxy(host: str) -> None:
    """Keeps gRPC from asking an HTTP proxy of the environment for a host."""
    if any(os.environ.get(name) for name in ("grpc_proxy", "https_proxy", "http_proxy")):
        known = ("no_grpc_proxy", "no_proxy")
        name = next((name for name in known if os.environ.get(name)), known[1])
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), host)))
