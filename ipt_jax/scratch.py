"""Temporary folders that do not outlive their process for long.

A process that is killed cannot remove its folders. Each folder is therefore locked by the process
that made it. The kernel releases the lock when that process dies, and the next process that makes a
folder of the same kind removes those without a lock.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:
    # Windows has no flock; folders of dead processes stay there.
    fcntl = None  # type: ignore[assignment]


class Scratch:
    """A new folder that belongs to this process; folders of dead processes are removed first.

    Copies that reach other processes by pickle know the path and do not hold the lock.

    Args:
      kind: the start of the folder's name; this process' number follows it.
      place: the folder in which it is made.

    Attributes:
      path: the folder.
    """

    def __init__(self, kind: str, place: str | os.PathLike[str]):
        remove_abandoned(kind, place)
        while True:
            self.path = tempfile.mkdtemp(prefix=f"{kind}{os.getpid()}-", dir=place)
            self._lock: int | None = _locked(self.path, wait=True)
            # Another process may have taken the folder for an abandoned one before it was locked.
            if os.path.isdir(self.path):
                return
            self._unlock()

    def remove(self) -> None:
        """Removes the folder and its content."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_lock": None}


def remove_abandoned(kind: str, place: str | os.PathLike[str]) -> None:
    """Removes the folders that dead processes of this user left.

    A folder is abandoned if nobody holds its lock, and if the process whose number is in its name
    does not exist (or is this one, which has the same number as a dead one had).

    Args:
      kind: the start of the folders' names; the number of a process follows it.
      place: the folder that contains them.
    """
    if fcntl is None:
        return
    for path in _folders(kind, place):
        lock = _locked(path, wait=False)
        if lock is None:
            continue
        try:
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)


def _folders(kind: str, place: str | os.PathLike[str]) -> Iterator[str]:
    """Yields this user's folders whose process does not live."""
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            number = entry.name.removeprefix(kind).partition("-")[0]
            if not entry.name.startswith(kind) or not number.isdigit():
                continue
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
                if own and not _lives(int(number)):
                    yield entry.path


def _lives(process: int) -> bool:
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _locked(path: str | Path, wait: bool) -> int | None:
    """Returns an open descriptor that holds the lock of a folder, or None if it cannot be had."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
