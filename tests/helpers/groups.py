"""Process groups whose processes are threads of the test."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ipt_jax.distributed import rendezvous
from ipt_jax.distributed.process_group import ProcessGroup
from ipt_jax.errors import ConfigError, Lost


def free_port() -> int:
    """Returns a free port whose successor is free as well."""
    while True:
        with contextlib.suppress(OSError), socket.create_server(("", 0)) as first:
            port = int(first.getsockname()[1])
            with socket.create_server(("", port + 1)):
                return port


def make_groups(count: int) -> list[ProcessGroup]:
    """Returns the group of `count` processes as each of them sees it."""
    address = ("127.0.0.1", free_port())
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda i: rendezvous.connect(address, i, count, 30), range(count)))


@contextlib.contextmanager
def with_raw_process(count: int) -> Iterator[tuple[list[ProcessGroup], socket.socket]]:
    """Yields the groups of all processes but the last, and the bare connection of the last."""
    address = ("127.0.0.1", free_port())
    with ThreadPoolExecutor(count) as pool:
        joining = [pool.submit(rendezvous.connect, address, i, count, 30) for i in range(count - 1)]
        connection = connect_when_there(address)
        hello = {"ipt_process": count - 1, "of": count, "host": "raw"}
        connection.sendall(json.dumps(hello).encode() + b"\n")
        groups = [future.result() for future in joining]
    with connection:
        yield groups, connection


def connect_when_there(address: tuple[str, int], limit: float = 20) -> socket.socket:
    """Returns a connection to an address, as soon as it listens."""
    end = time.monotonic() + limit
    while True:
        with contextlib.suppress(OSError):
            return socket.create_connection(address, timeout=limit)
        assert time.monotonic() < end, f"nothing listens at {address}"
        time.sleep(0.02)


def all_do(what: Callable[..., Any], *each: tuple[Any, ...]) -> list[Any]:
    """Calls a function with each tuple of arguments at once; returns the results or errors."""

    def one(arguments: tuple[Any, ...]) -> Any:
        try:
            return what(*arguments)
        except (Lost, ConfigError) as error:
            return error

    with ThreadPoolExecutor(len(each)) as pool:
        return list(pool.map(one, each))
