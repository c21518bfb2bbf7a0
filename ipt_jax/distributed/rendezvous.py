"""The rendezvous of a run's processes: all connect to process 0, or learn which one is missing."""

from __future__ import annotations

import contextlib
import socket
import time

from ipt_jax.distributed.peer import Peer, process_names
from ipt_jax.distributed.process_group import REPORT_EVERY, ProcessGroup
from ipt_jax.errors import Lost
from ipt_jax.log import logger


def connect(address: tuple[str, int], index: int, count: int, limit: float) -> ProcessGroup:
    """Waits until all processes have connected to process 0.

    Args:
      address: host and port where process 0 listens.
      index: this process.
      count: the number of processes.
      limit: seconds to wait.

    Raises:
      Lost: some processes did not come within `limit` seconds (the message names them), two have
        the same index, or one expects another count.
    """
    if count == 1:
        return ProcessGroup()
    if index == 0:
        return ProcessGroup(0, count, _accept_all(address[1], count, limit))
    return ProcessGroup(index, count, {0: _join(address, index, count, limit)})


def _accept_all(port: int, count: int, limit: float) -> dict[int, Peer]:
    """Process 0's part: waits for all others, and tells them that all are here or what is wrong."""
    end = time.monotonic() + limit
    reported = time.monotonic()
    peers: dict[int, Peer] = {}
    problem = ""
    try:
        server = socket.create_server(("", port), backlog=count)
    except OSError as error:
        raise Lost(
            f"process 0 cannot listen on port {port}: {error.strerror or error}; name another port"
        ) from None
    with server:
        while len(peers) < count - 1 and not problem:
            missing = process_names(set(range(1, count)) - set(peers))
            left = end - time.monotonic()
            if left <= 0:
                problem = f"{missing} of {count} did not come within {limit:.0f} s"
                break
            server.settimeout(min(left, 1.0))
            with contextlib.suppress(TimeoutError):
                problem = _accept(server.accept()[0], peers, count, left)
            if time.monotonic() - reported > REPORT_EVERY:
                reported = time.monotonic()
                logger.info("waiting for %s of %d (%.0f s left)", missing, count, left)
    for peer in peers.values():
        peer.try_send({"refused": problem} if problem else {"welcome": True})
    if problem:
        raise Lost(problem)
    return peers


def _accept(connection: socket.socket, peers: dict[int, Peer], count: int, left: float) -> str:
    """Adds one process to `peers`, or returns what is wrong with it.

    Connections of anything else, such as a port scanner, are ignored.
    """
    connection.settimeout(min(left, 5.0))
    peer = Peer(connection, "")
    try:
        hello = next(peer.messages())
        index, expected = int(hello["ipt_process"]), int(hello["of"])
        peer.host = str(hello["host"])
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        connection.close()
        return ""
    connection.settimeout(None)
    problem = ""
    if expected != count:
        problem = f"{peer.name(index)} expects {expected} processes, process 0 expects {count}"
    elif index in peers and not peers[index].closed():
        problem = _same_index(index, peers[index].host, peer.host)
    elif not 0 < index < count:
        problem = _same_index(index, socket.gethostname(), peer.host)
    if problem:
        peer.try_send({"refused": problem})
    else:
        peers[index] = peer
    return problem


def _same_index(index: int, first: str, second: str) -> str:
    return f"two processes have the number {index}: on {first} and on {second}"


def _join(address: tuple[str, int], index: int, count: int, limit: float) -> Peer:
    """The part of every other process: connects to process 0 and waits until all are here."""
    end = time.monotonic() + limit
    reported, why = time.monotonic(), ""
    where = f"{address[0]}:{address[1]}"
    hello = {"ipt_process": index, "of": count, "host": socket.gethostname()}
    while True:
        left = end - time.monotonic()
        if left <= 0:
            raise Lost(
                f"process 0 of {count} did not come within {limit:.0f} s: nothing at {where} "
                f"({why})"
            )
        try:
            connection = socket.create_connection(address, timeout=min(left, 10.0))
            peer = Peer(connection, address[0])
            peer.send(hello)
            # Process 0 may have begun to wait later than this process, and gives up later, too.
            connection.settimeout(max(left, 1.0) + 10)
            answer = next(peer.messages(), {})
        except (OSError, ValueError) as error:
            why, answer = (getattr(error, "strerror", None) or str(error)), {}
        if "welcome" in answer:
            connection.settimeout(None)
            return peer
        if "refused" in answer:
            raise Lost(answer["refused"])
        time.sleep(min(0.3, max(0.0, end - time.monotonic())))
        if time.monotonic() - reported > REPORT_EVERY:
            reported = time.monotonic()
            logger.info("waiting for process 0 at %s (%s)", where, why)
