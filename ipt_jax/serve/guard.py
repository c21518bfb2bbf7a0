"""Middleware of the page: it refuses requests of other sites, and uploads without room."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ipt_jax.serve.uploads import KEPT, bytes_in, delete_old

# Addresses that other machines cannot reach.
LOCAL = ("127.0.0.1", "localhost", "::1")


def guard(host: str, uploads: Path, limit: int) -> Any:
    """Returns the middleware that refuses foreign requests, for gradio's application."""
    from starlette.middleware import Middleware

    return Middleware(Guard, names=_own_names(host), uploads=uploads, limit=limit)


def _own_names(host: str) -> frozenset[str]:
    """Returns the names by which this page may be addressed; addresses in digits always may."""
    names = {host, "localhost"}
    if host not in LOCAL:
        names |= {socket.gethostname(), socket.getfqdn()}
    return frozenset(name.lower() for name in names)


class Guard:
    """ASGI middleware that refuses requests of other sites, and uploads without room.

    A page of another site can make a visitor's browser send requests to this machine. Such a
    request has the `Origin` of that site. If the site lets its own name point to this machine (DNS
    rebinding), the request has that name as `Host`.

    Args:
      app: the application.
      names: the names that a `Host` header may have, in lower case.
      uploads: the folder of the uploads.
      limit: the most bytes that it may contain.
    """

    def __init__(self, app: Any, names: frozenset[str], uploads: Path, limit: int):
        self._app, self._names, self._uploads, self._limit = app, names, uploads, limit
        self._arriving = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers one request."""
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if not self._is_own(headers):
            return await _refuse(scope, send, 403, "This page is not for other sites.")
        if scope.get("method") not in ("POST", "PUT", "PATCH"):
            return await self._app(scope, receive, send)
        return await self._receive_body(scope, receive, send, headers)

    def _is_own(self, headers: dict[bytes, str]) -> bool:
        host = headers.get(b"host", "").lower()
        name = urlsplit(f"//{host}").hostname or ""
        if name not in self._names and not _is_address(name):
            return False
        origin = headers.get(b"origin")
        return origin is None or urlsplit(origin).netloc.lower() == host

    async def _receive_body(
        self, scope: Any, receive: Any, send: Any, headers: dict[bytes, str]
    ) -> None:
        """Passes a request on, and ends it as soon as its body does not fit any more."""
        delete_old(self._uploads, KEPT)
        room = self._limit - bytes_in(self._uploads) - self._arriving
        announced = headers.get(b"content-length", "0")
        own, begun = 0, False

        async def counted() -> Any:
            nonlocal own
            message = await receive()
            size = len(message.get("body", b""))
            own += size
            self._arriving += size
            if own > room:
                raise _NoRoom
            return message

        async def noted(message: Any) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            if not announced.isdigit() or int(announced) > room:
                raise _NoRoom
            await self._app(scope, counted, noted)
        except _NoRoom:
            if not begun:
                await _skip_body(receive, self._limit)
                await _refuse(scope, send, 413, "There is no room for this upload; try it later.")
        finally:
            self._arriving -= own


class _NoRoom(Exception):
    """An upload that does not fit."""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _refuse(scope: Any, send: Any, status: int, text: str) -> None:
    """Answers a request with a status and a line of text."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


async def _skip_body(receive: Any, limit: int) -> None:
    """Reads the rest of a request and keeps nothing: many clients wait for an answer only then."""
    skipped = 0
    while skipped < limit:
        message = await receive()
        skipped += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return
