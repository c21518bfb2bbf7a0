"""One run a folder: a second one is refused with the owner named, and what a dead one left is taken
over.

On a file system it is the kernel's lock on `<workdir>/lock`, which ends with its process however
that ends. Object
stores have no locks: there the file is a heartbeat, and whoever finds one waits to see whether it
still beats. (Two that start on an object store within the same second can miss each other.)
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from etils import epath

from ipt_jax.errors import Locked

# Seconds between two heartbeats; one that is silent for twice as long is dead
BEAT = 20.0


@contextlib.contextmanager
def hold(folder: epath.Path, active: bool = True) -> Iterator[None]:
    """Makes the folder if need be, and keeps other runs out of it.

    Args:
      folder: the run's.
      active: whether this process is the one of its run that does so.

    Raises:
      Locked: another run has it.
    """
    if not active:
        yield
        return
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    try:
        with _heartbeat(path) if "://" in str(folder) else _kernel_lock(path):
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    path.unlink()
    finally:
        if made:
            # Etils' word for a folder that is not empty
            with contextlib.suppress(OSError, ValueError):
                folder.rmdir()


def _owner() -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": now, "id": uuid.uuid4().hex}


def _refuse(path: epath.Path, text: str) -> Locked:
    try:
        owner = json.loads(text)
        who = f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return Locked(
        f"{path.parent} belongs to a run that is under way ({who}); wait for it, stop it, or name "
        "another folder"
    )


@contextlib.contextmanager
def _kernel_lock(path: epath.Path) -> Iterator[None]:
    while True:
        file = open(path, "a+")  # noqa: SIM115  closed below, which ends the lock
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                file.seek(0)
                raise _refuse(path, file.read()) from None
        except BaseException:
            file.close()
            raise
        try:
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                break
        except FileNotFoundError:
            pass
        # Its owner removed it just now: this is no longer the file that others see
        file.close()
    with file:
        file.truncate(0)
        file.write(json.dumps(_owner()))
        file.flush()
        yield


@contextlib.contextmanager
def _heartbeat(path: epath.Path) -> Iterator[None]:
    before = _read(path)
    if before is not None:
        # By this clock alone: hosts' clocks differ
        time.sleep(2 * BEAT)
        now = _read(path)
        if now is not None and now != before:
            raise _refuse(path, now or before)
    owner, over = _owner(), threading.Event()
    path.write_text(json.dumps(owner))

    def beat() -> None:
        count = 0
        while not over.wait(BEAT):
            count += 1
            # A store that is away for a while must not end the run
            with contextlib.suppress(OSError):
                path.write_text(json.dumps({**owner, "beat": count}))

    thread = threading.Thread(target=beat, name="ipt-lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _read(path: epath.Path) -> str | None:
    """The file's text (none where it is just being written), or None where there is no file."""
    try:
        return path.read_text()
    except OSError:
        return None
