"""The rendezvous of processes, with threads in their place."""

from __future__ import annotations

import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from groups import all_do, free_port

from ipt_jax.distributed import rendezvous
from ipt_jax.errors import Lost


def test_a_missing_process_is_named_on_all():
    address = ("127.0.0.1", free_port())
    found = all_do(rendezvous.connect, (address, 0, 4, 2.0), (address, 2, 4, 8.0))
    assert [str(e) for e in found] == ["processes 1, 3 of 4 did not come within 2 s"] * 2
    with pytest.raises(
        Lost,
        match=r"process 0 of 2 did not come within 1 s: nothing at 127.0.0.1:\d+ \(Connection "
        r"refused\)",
    ):
        rendezvous.connect(address, 1, 2, 1.0)


def test_one_number_twice_and_another_count():
    address = ("127.0.0.1", free_port())
    found = all_do(
        rendezvous.connect, (address, 0, 3, 10.0), (address, 1, 3, 10.0), (address, 1, 3, 10.0)
    )
    assert all("two processes have the number 1" in str(e) for e in found)
    found = all_do(rendezvous.connect, (address, 0, 3, 10.0), (address, 1, 4, 10.0))
    assert all("expects 4 processes, process 0 expects 3" in str(e) for e in found)


def test_strangers_do_not_count():
    address = ("127.0.0.1", free_port())

    def stranger() -> None:
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'{"ipt_process": "x"}\n', b""):
            for _ in range(100):
                with (
                    contextlib.suppress(OSError),
                    socket.create_connection(address, timeout=1) as knock,
                ):
                    knock.sendall(words)
                    break
                time.sleep(0.02)

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(rendezvous.connect, address, 0, 2, 30)
        pool.submit(stranger).result()
        second = pool.submit(rendezvous.connect, address, 1, 2, 30)
        assert first.result().count == second.result().count == 2
