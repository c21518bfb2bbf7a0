"""The rendezvous of a run's processes: all connect to process 0, or learn which one is missing.

The port of process 0 may be reached by others: port scanners, programs of other users, other runs.
What they send is ignored. A connection must introduce itself within `HELLO` seconds in one short
message, while other connections are served. If the environment variable `IPT_TOKEN` is set, the
message must contain it. The token tells runs apart and keeps strangers out of this rendezvous. It
is sent without encryption, and JAX's own service on the neighbouring port knows no token, so the
ports of a run belong on a network that is trusted.
"""

from __future__ import annotations

import hmac
import os
import select
import socket
import time
from collections.abc import Mapping
from typing import Any

from ipt_jax.distributed.peer import Peer, process_names
from ipt_jax.distributed.process_group import REPORT_EVERY, ProcessGroup
from ipt_jax.errors import Lost
from ipt_jax.log import logger
from ipt_jax.messages import printable

# The environment variable with the secret that the processes of a run share.
TOKEN = "IPT_TOKEN"

# Seconds in which a connection must introduce itself.
HELLO = 5.0

# Seconds for which another process waits longer than process 0, which may have begun to wait later
# and then gives up later.
LATER = 10.0

# The most connections that wait to introduce themselves; the oldest are closed first.
WAITING = 256


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
    # Connections that have not introduced themselves, and when each of them must have.
    waiting: dict[Peer, float] = {}
    problem = ""
    try:
        server = socket.create_server(("", port), backlog=count + WAITING)
    except OSError as error:
        raise Lost(
            f"process 0 cannot listen on port {port}: {error.strerror or error}; name another port"
        ) from None
    with server:
        server.setblocking(False)
        while len(peers) < count - 1 and not problem:
            missing = process_names(set(range(1, count)) - set(peers))
            left = end - time.monotonic()
            if left <= 0:
                problem = f"{missing} of {count} did not come within {limit:.0f} s"
                break
            ready = _readable([server, *waiting], min(left, 0.5))
            if server in ready:
                _take_connection(server, waiting)
            for peer in list(waiting):
                try:
                    hello = peer.first_message(waiting[peer], wait=0)
                    if hello is None:
                        continue
                    del waiting[peer]
                    problem = _introduce(peer, hello, peers, count)
                except (OSError, ValueError, KeyError, TypeError, OverflowError):
                    # Whatever a stranger sends is ignored.
                    waiting.pop(peer, None)
                    peer.connection.close()
                if problem:
                    break
            if time.monotonic() - reported > REPORT_EVERY:
                reported = time.monotonic()
                logger.info("waiting for %s of %d (%.0f s left)", missing, count, left)
    for peer in waiting:
        peer.connection.close()
    for peer in peers.values():
        peer.try_send({"refused": problem} if problem else {"welcome": True})
    if problem:
        raise Lost(problem)
    return peers


def _readable(sources: list[Any], limit: float) -> list[Any]:
    """Returns the sockets and peers of which there is something to read; waits up to `limit` s."""
    poll = select.poll()
    places = {}
    for source in sources:
        place = getattr(source, "connection", source).fileno()
        places[place] = source
        poll.register(place, select.POLLIN)
    return [places[place] for place, _ in poll.poll(1000 * limit)]


def _take_connection(server: socket.socket, waiting: dict[Peer, float]) -> None:
    try:
        connection = server.accept()[0]
        peer = Peer(connection, "")
    # The other end has gone already, or this process may open no more connections.
    except OSError:
        return
    if len(waiting) >= WAITING:
        oldest = min(waiting, key=lambda peer: waiting[peer])
        del waiting[oldest]
        oldest.connection.close()
    waiting[peer] = time.monotonic() + HELLO


def _introduce(peer: Peer, hello: Mapping[str, Any], peers: dict[int, Peer], count: int) -> str:
    """Adds one process to `peers`, or returns what is wrong with it.

    A process without the token of this run learns that, and does not count.

    Raises:
      KeyError, TypeError, ValueError, OverflowError: it is not a process of a run.
    """
    index, expected = int(hello["ipt_process"]), int(hello["of"])
    peer.host = printable(hello["host"])[:255]
    peer.connection.settimeout(None)
    if not hmac.compare_digest(str(hello.get("token", "")).encode("utf-8", "replace"), _token()):
        peer.try_send({"refused": f"the token of process 0 is another one: set {TOKEN} alike"})
        logger.warning("%s was refused: its %s is not the one of this run", peer.name(index), TOKEN)
        peer.connection.close()
        return ""
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


def _token() -> bytes:
    return os.environ.get(TOKEN, "").encode("utf-8", "replace")


def _same_index(index: int, first: str, second: str) -> str:
    return f"two processes have the number {index}: on {first} and on {second}"


def _join(address: tuple[str, int], index: int, count: int, limit: float) -> Peer:
    """The part of every other process: connects to process 0 and waits until all are here."""
    end = time.monotonic() + limit
    reported, why = time.monotonic(), ""
    where = f"{address[0]}:{address[1]}"
    hello: dict[str, Any] = {"ipt_process": index, "of": count, "host": socket.gethostname()}
    if os.environ.get(TOKEN):
        hello["token"] = _token().decode()
    while True:
        left = end - time.monotonic()
        if left <= 0:
            raise Lost(
                f"process 0 of {count} did not come within {limit:.0f} s: nothing at {where} "
                f"({why})"
            )
        connection = None
        try:
            connection = socket.create_connection(address, timeout=min(left, 10.0))
            peer = Peer(connection, address[0])
            peer.send(hello)
            answer = peer.first_message(time.monotonic() + max(left, 1.0) + LATER) or {}
        except (OSError, ValueError) as error:
            why, answer = printable(getattr(error, "strerror", None) or error), {}
            if connection is not None:
                connection.close()
        if "welcome" in answer and connection is not None:
            connection.settimeout(None)
            return peer
        if "refused" in answer:
            raise Lost(printable(answer["refused"])[:1000])
        time.sleep(min(0.3, max(0.0, end - time.monotonic())))
        if time.monotonic() - reported > REPORT_EVERY:
            reported = time.monotonic()
            logger.info("waiting for process 0 at %s (%s)", where, why)
