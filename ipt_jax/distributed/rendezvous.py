"""The rendezvous of the processes of a run."""

from __future__ import annotations

import contextlib
import socket
import time

from ipt_jax.distributed.peer import Peer
from ipt_jax.distributed.process_group import SAY, ProcessGroup, _processes
from ipt_jax.errors import Lost
from ipt_jax.log import logger


def connect(address: tuple[str, int], index: int, count: int, limit: float) -> ProcessGroup:
    """The roll call: returns when all `count` processes have come to process 0, which listens at
    `address`.

    Raises:
      Lost: some did not come within `limit` seconds (named), or came under one number, or expect
        another count.
    """
    line = ProcessGroup(index, count)
    if count > 1:
        (_call if index == 0 else _answer)(line, address, limit)
        line._listen()
    return line


def _call(line: ProcessGroup, address: tuple[str, int], limit: float) -> None:
    """Process 0's part: waits for all others and tells them that all are here, or who is not."""
    end = time.monotonic() + limit
    said = time.monotonic()
    problem = ""
    try:
        server = socket.create_server(("", address[1]), backlog=line.count)
    except OSError as error:
        raise Lost(
            f"process 0 cannot listen on port {address[1]}: {error.strerror or error}; name "
            "another port"
        ) from None
    with server:
        while len(line._peers) < line.count - 1 and not problem:
            missing = sorted(set(range(1, line.count)) - set(line._peers))
            left = end - time.monotonic()
            if left <= 0:
                problem = f"{_processes(missing)} of {line.count} did not come within {limit:.0f} s"
                break
            server.settimeout(min(left, 1.0))
            with contextlib.suppress(TimeoutError):
                problem = _welcome(line, server.accept()[0], left)
            if time.monotonic() - said > SAY:
                said = time.monotonic()
                logger.info(
                    "waiting for %s of %d (%.0f s left)", _processes(missing), line.count, left
                )
    line._broadcast({"refused": problem} if problem else {"welcome": True})
    if problem:
        raise Lost(problem)


def _welcome(line: ProcessGroup, connection: socket.socket, left: float) -> str:
    """Takes in one process; returns what is wrong with it. Strangers (a port scanner, another
    program) are ignored.
    """
    connection.settimeout(min(left, 5.0))
    peer = Peer(connection, "")
    try:
        hello = next(peer.messages())
        index, count, peer.host = int(hello["ipt_process"]), int(hello["of"]), str(hello["host"])
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        connection.close()
        return ""
    connection.settimeout(None)
    problem = ""
    if count != line.count:
        problem = f"{peer.name(index)} expects {count} processes, process 0 expects {line.count}"
    elif index in line._peers and not line._peers[index].closed():
        problem = f"two processes have the number {index}: on {line._peers[index].host} and on {peer.host}"
    elif not 0 < index < line.count:
        problem = (
            f"two processes have the number {index}: on {socket.gethostname()} and on {peer.host}"
        )
    if problem:
        with contextlib.suppress(OSError):
            peer.send({"refused": problem})
    else:
        line._add(index, peer)
    return problem


def _answer(line: ProcessGroup, address: tuple[str, int], limit: float) -> None:
    """The other processes' part."""
    end = time.monotonic() + limit
    said, why = time.monotonic(), ""
    where = f"{address[0]}:{address[1]}"
    hello = {"ipt_process": line.index, "of": line.count, "host": socket.gethostname()}
    while True:
        left = end - time.monotonic()
        if left <= 0:
            raise Lost(
                f"process 0 of {line.count} did not come within {limit:.0f} s: nothing at {where} "
                f"({why})"
            )
        try:
            connection = socket.create_connection(address, timeout=min(left, 10.0))
            peer = Peer(connection, address[0])
            peer.send(hello)
            # Process 0 has begun to wait at another time
            connection.settimeout(max(left, 1.0) + 10)
            answer = next(peer.messages(), {})
        except (OSError, ValueError) as error:
            why, answer = (getattr(error, "strerror", None) or str(error)), {}
        if "welcome" in answer:
            connection.settimeout(None)
            line._add(0, peer)
            return
        if "refused" in answer:
            raise Lost(answer["refused"])
        time.sleep(min(0.3, max(0.0, end - time.monotonic())))
        if time.monotonic() - said > SAY:
            said = time.monotonic()
            logger.info("waiting for process 0 at %s (%s)", where, why)
