"""A headless Chromium, driven through its DevTools pipe: no package needed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pathlib
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

BROWSER = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)


class Page:
    """A tab. Every call raises TimeoutError instead of waiting for ever."""

    def __init__(self, write: int, read: int):
        self._write, self._read, self._held, self._number, self._session = write, read, b"", 0, ""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "DOM"):
            self._call(f"{domain}.enable")

    def _call(self, method: str, **params: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + 60
        while time.monotonic() < end:
            while b"\0" in self._held:
                line, _, self._held = self._held.partition(b"\0")
                answer = json.loads(line)
                if answer.get("id") == self._number:
                    if "error" in answer:
                        raise RuntimeError(f"{method}: {answer['error']}")
                    return answer["result"]
            if select.select([self._read], [], [], 1)[0]:
                self._held += os.read(self._read, 1 << 20)
        raise TimeoutError(method)

    def go(self, url: str) -> None:
        self._call("Page.navigate", url=url)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression; promises are waited for."""
        done = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in done:
            raise RuntimeError(f"{expression}: {done['exceptionDetails']}")
        return done["result"].get("value")

    def wait(self, expression: str, seconds: float = 60) -> Any:
        """The expression's value once it is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.run(expression):
                return value
            time.sleep(0.2)
        raise TimeoutError(
            f"{expression}; the page says: {self.run('document.body.innerText')[:500]}"
        )

    def upload(self, selector: str, file: pathlib.Path) -> None:
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        node = self._call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def screenshot(self, file: pathlib.Path) -> None:
        file.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))


@contextlib.contextmanager
def opened(profile: pathlib.Path) -> Iterator[Page]:
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()

    # A shell puts them where the browser looks for them: Python code in a fork of a process with
    # jax's threads can deadlock.
    place = f'exec "$@" 103<&{to_read} 104>&{from_write} 3<&103 4>&104'
    process = subprocess.Popen(
        [
            "bash",
            "-c",
            place,
            "bash",
            str(BROWSER),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-pipe",
            "--window-size=1200,1000",
            "--disable-background-networking",
            f"--user-data-dir={profile}",
        ],
        pass_fds=(to_read, from_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield Page(to_write, from_read)
    finally:
        process.kill()
        process.wait(timeout=30)
        for fd in (to_read, to_write, from_read, from_write):
            os.close(fd)
