"""The lock on a run's folder: one run per folder; stale locks are taken over.

On a file system the lock is the kernel's lock on `<workdir>/lock`, which the kernel releases
however the process ends. Object stores have no locks: there the owner rewrites the file every
`BEAT` seconds, and a process that finds the file waits to see whether its content changes. (Two
runs that start on an object store within the same second can miss each other.)
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
from ipt_jax.run_folder.folder import LOCK
from ipt_jax.storage import is_remote

# Seconds between two heartbeats. An owner without a heartbeat for twice as long is dead.
BEAT = 20.0


@contextlib.contextmanager
def hold(folder: epath.Path, active: bool = True) -> Iterator[None]:
    """Creates the folder if it is missing, and keeps other runs out of it.

    A folder that was created here and is still empty at the end is removed again.

    Args:
      folder: the run's folder.
      active: whether to lock; only process 0 of a run holds the lock.

    Raises:
      Locked: another run that is alive holds the lock; the message names its process and host.
    """
    if not active:
        yield
        return
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    try:
        with _heartbeat(path) if is_remote(folder) else _kernel_lock(path):
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    path.unlink()
    finally:
        if made:
            # For a folder that is not empty, etils raises ValueError on some stores.
            with contextlib.suppress(OSError, ValueError):
                folder.rmdir()


def _owner() -> dict[str, Any]:
    """Returns what the lock's file says about this process."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": now, "id": uuid.uuid4().hex}


def _locked(path: epath.Path, text: str) -> Locked:
    """Returns the error for a folder whose lock's file holds `text`."""
    try:
        owner = json.loads(text)
        who = f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return Locked(
        f"{path.parent} belongs to a run that is under way ({who}); wait for that run to end, stop "
        "it, or name another folder"
    )


@contextlib.contextmanager
def _kernel_lock(path: epath.Path) -> Iterator[None]:
    while True:
        file = open(path, "a+")  # noqa: SIM115 (closing it below releases the lock)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                file.seek(0)
                raise _locked(path, file.read()) from None
        except BaseException:
            file.close()
            raise
        try:
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                break
        except FileNotFoundError:
            pass
        # The owner removed the file in the meantime, so other processes would lock another one.
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
        # Time stamps in the file are not compared, because the clocks of hosts differ.
        time.sleep(2 * BEAT)
        now = _read(path)
        if now is not None and now != before:
            raise _locked(path, now or before)
    owner, over = _owner(), threading.Event()
    path.write_text(json.dumps(owner))

    def beat() -> None:
        count = 0
        while not over.wait(BEAT):
            count += 1
            # A store that does not answer for a while must not end the run.
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
    """Returns the file's text (empty while it is being written), or None if there is no file."""
    try:
        return path.read_text()
    except OSError:
        return None
