"""The rendezvous of processes, with threads in their place."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from groups import all_do, connect_when_there, free_port

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


def hold(address: tuple[str, int], words: bytes, every: float, ended: threading.Event) -> None:
    """Sends byte after byte until the other end closes or the test ends."""
    with contextlib.suppress(OSError), connect_when_there(address) as knock:
        for byte in words * 1000:
            knock.sendall(bytes([byte]))
            if ended.wait(every):
                return


NONSENSE = (
    b"[" * 100_000 + b"\n",
    b'{"ipt_process": 1e999, "of": 2, "host": "x"}\n',
    b'{"ipt_process": 1, "of": 1e999, "host": "x"}\n',
    b'{"ipt_process": NaN, "of": 2, "host": "x"}\n',
    b'{"a": ' * 600 + b"\n",
    b"\xff" * 70_000,
    b'{"ipt_process": [], "of": 2}\n',
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,
)


def test_strangers_can_neither_end_nor_hold_the_start():
    """Some send nonsense and some nothing, a byte every 0.2 s; the processes meet meanwhile."""
    address, ended = ("127.0.0.1", free_port()), threading.Event()
    with ThreadPoolExecutor(40) as pool, contextlib.ExitStack() as stack:
        # The threads end before the pool waits for them, also if the test fails.
        stack.callback(ended.set)
        first = pool.submit(rendezvous.connect, address, 0, 2, 30)
        for words in (b" ", b"{"):
            for _ in range(10):
                pool.submit(hold, address, words, 0.2, ended)
        silent = [stack.enter_context(connect_when_there(address)) for _ in range(20)]
        for words in NONSENSE:
            with contextlib.suppress(OSError), connect_when_there(address) as knock:
                knock.sendall(words)
        began = time.monotonic()
        second = pool.submit(rendezvous.connect, address, 1, 2, 30)
        assert first.result().count == second.result().count == 2
        assert time.monotonic() - began < 4, "strangers held the start"
        assert len(silent) == 20


def test_who_only_drips_is_given_up_and_the_limit_holds(monkeypatch):
    """Process 0 ignores a slow stranger; another process does not trust one that listens."""
    monkeypatch.setattr(rendezvous, "HELLO", 0.5)
    monkeypatch.setattr(rendezvous, "LATER", 1.0)
    address, ended = ("127.0.0.1", free_port()), threading.Event()
    with ThreadPoolExecutor(3) as pool:
        pool.submit(hold, address, b" ", 0.1, ended)
        began = time.monotonic()
        with pytest.raises(Lost, match="process 1 of 2 did not come within 2 s"):
            rendezvous.connect(address, 0, 2, 2.0)
        assert time.monotonic() - began < 5
        ended.set()
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:

        def drip() -> None:
            with contextlib.suppress(OSError), server.accept()[0] as connection:
                while True:
                    connection.sendall(b" ")
                    time.sleep(0.2)

        pool.submit(drip)
        began = time.monotonic()
        with pytest.raises(Lost, match="process 0 of 2 did not come within 1 s"):
            rendezvous.connect(server.getsockname(), 1, 2, 1.0)
        assert time.monotonic() - began < 6


def test_a_process_without_the_token_does_not_join(monkeypatch):
    address = ("127.0.0.1", free_port())
    monkeypatch.setenv("IPT_TOKEN", "a secret")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(rendezvous.connect, address, 0, 2, 30)
        for token in ({}, {"token": "another"}, {"token": 7}, {"token": "\u0000\ud800"}):
            with connect_when_there(address) as stranger:
                hello = {"ipt_process": 1, "of": 2, "host": "x", **token}
                stranger.sendall(json.dumps(hello).encode() + b"\n")
                assert b"set IPT_TOKEN alike" in stranger.recv(4096)
        second = pool.submit(rendezvous.connect, address, 1, 2, 30)
        assert first.result().count == second.result().count == 2


def test_names_of_hosts_are_escaped():
    address = ("127.0.0.1", free_port())
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(rendezvous.connect, address, 0, 2, 30)
        with connect_when_there(address) as stranger:
            hello = {"ipt_process": 1, "of": 3, "host": "\x1b[2Jx\r\n" + "y" * 1000}
            stranger.sendall(json.dumps(hello).encode() + b"\n")
            with pytest.raises(Lost) as caught:
                first.result()
    said = str(caught.value)
    assert said.startswith(r"process 1 (\x1b[2Jx\r\ny") and said.isprintable() and len(said) < 400
