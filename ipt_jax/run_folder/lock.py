"""The lock on a run's folder: one run per folder; stale locks are taken over.

On a file system the lock is the kernel's lock on `<workdir>/lock`, which the kernel releases
however the process ends. Object stores have no locks, nor have some network file systems: there the
owner rewrites the file every `BEAT` seconds, and a process that finds the file watches it. The lock
is stale if the file does not change for `STALE` seconds, or if its owner was a process of the same
machine that has ended.

A lock can be lost while a run trains: someone deletes the file or the folder, or the process was
suspended for so long that another run took the lock over. `Lock.check` finds that out.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from etils import epath

from ipt_jax.errors import Locked, LockLost
from ipt_jax.log import logger
from ipt_jax.run_folder.folder import LOCK
from ipt_jax.storage import is_remote, read_fresh

# Seconds between two heartbeats.
BEAT = 20.0

# Seconds without a heartbeat after which a lock is stale. It is longer than the longest outage of
# the storage that a run survives, and than the time until a suspended owner looks at its lock.
STALE = 180.0

# Seconds after which a process that wrote a heartbeat lock reads it again. Of several processes
# that find the same stale lock, the last one to write it has it.
SETTLE = 2.0

# How often a folder may disappear between its creation and that of the file.
_MISSING = 100

# Errors of flock on file systems without locks, such as NFS without its lock service.
_NO_FLOCK = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTSUP)


class Lock:
    """The lock on a run's folder. This one is never lost: only process 0 of a run holds a lock."""

    def check(self, quick: bool = False) -> None:
        """Checks that this process still holds the lock.

        Args:
          quick: whether to use what is known without a request to an object store.

        Raises:
          LockLost: the lock's file was deleted, or another process has taken the lock.
        """


@contextlib.contextmanager
def hold(folder: epath.Path, active: bool = True) -> Iterator[Lock]:
    """Creates the folder if it is missing, and keeps other runs out of it.

    A folder that was created here and is still empty at the end is removed again.

    Args:
      folder: the run's folder.
      active: whether to lock; only process 0 of a run holds the lock.

    Raises:
      Locked: another run that is alive holds the lock; the message names its process and host.
    """
    if not active:
        yield Lock()
        return
    remote = is_remote(folder)
    made = not folder.exists()
    _create(folder)
    try:
        lock = _Heartbeat(folder / LOCK) if remote else _local(folder)
        try:
            yield lock
        finally:
            lock.release()
    finally:
        if made and not remote:
            # Unlike etils' rmdir, this one never removes a folder that has been filled meanwhile.
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def _create(folder: epath.Path | Path) -> None:
    """Creates a folder if it is missing, while other processes may create and remove it."""
    for attempt in range(_MISSING):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return
        except FileExistsError:
            # Something else has this name, or the folder has been removed since it was found.
            if attempt + 1 == _MISSING:
                raise


def _local(folder: epath.Path) -> _KernelLock | _Heartbeat:
    """Acquires the kernel's lock, or a heartbeat lock where the file system has no locks."""
    try:
        return _KernelLock(folder / LOCK)
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
        logger.warning(
            "%s: the file system has no file locks (%s); the lock is a file that this run rewrites "
            "every %.0f s",
            folder,
            error.strerror,
            BEAT,
        )
        return _Heartbeat(folder / LOCK)


class _KernelLock(Lock):
    """The kernel's lock on a file.

    Args:
      path: the file; it is created if it does not exist.

    Raises:
      Locked: another process holds the lock.
      OSError: the file system has no locks, or the file cannot be created.
    """

    def __init__(self, path: epath.Path) -> None:
        self._path = Path(path)
        self._file: IO[str] = self._acquire()
        self._file.truncate(0)
        self._file.write(json.dumps(_owner()))
        self._file.flush()

    def _acquire(self) -> IO[str]:
        missing = 0
        while True:
            created = not os.path.lexists(self._path)
            try:
                # Closing it releases the lock. A damaged file may hold bytes that are no text.
                file = open(self._path, "a+", errors="replace")  # noqa: SIM115
            except FileNotFoundError:
                # The process that created the folder has removed it again.
                missing += 1
                if missing > _MISSING:
                    raise
                _create(self._path.parent)
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with file:
                    file.seek(0)
                    raise _locked(self._path, file.read()) from None
            except BaseException:
                file.close()
                # An empty file would look like the lock of a process that is just writing it.
                if created and not self._path.stat().st_size:
                    self._path.unlink()
                raise
            if self._is_at_path(file):
                return file
            # The owner removed the file in the meantime, so other processes would lock another one.
            file.close()

    def _is_at_path(self, file: IO[str]) -> bool:
        """Returns whether the file is still the one of this name. Raises OSError if unknown."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self._path))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            # A network file system says this of a file that was deleted on the server.
            if error.errno == errno.ESTALE:
                return False
            raise

    def check(self, quick: bool = False) -> None:
        # Storage that fails is reported when the state is saved.
        with contextlib.suppress(OSError):
            if not self._is_at_path(self._file):
                raise _lost(self._path, _read(epath.Path(self._path)))

    def release(self) -> None:
        # A file that replaced this one belongs to another run.
        with self._file, contextlib.suppress(OSError):
            if self._is_at_path(self._file):
                self._path.unlink()


class _Heartbeat(Lock):
    """A lock file that its owner rewrites every `BEAT` seconds.

    Args:
      path: the file.

    Raises:
      Locked: the file's owner is alive.
      OSError: the storage does not answer.
    """

    def __init__(self, path: epath.Path) -> None:
        self._path = path
        self._owner = _owner()
        self._lost: LockLost | None = None
        self._over = threading.Event()
        # Beats and checks in two threads must not mix: the file is rewritten by one of them.
        self._turn = threading.Lock()
        self._wait_for_owner()
        path.write_text(json.dumps(self._owner))
        time.sleep(SETTLE)
        if not self._is_mine(text := _read(path)):
            raise _locked(path, text or "")
        self._seen = time.time()
        self._thread = threading.Thread(target=self._beat, name="ipt-lock", daemon=True)
        self._thread.start()

    def _wait_for_owner(self) -> None:
        """Returns when the lock is free or stale. Raises Locked when its owner shows to be alive.

        Time stamps in the file are not compared, because the clocks of hosts differ.
        """
        before = _read(self._path)
        if before is None or _has_ended(before):
            return
        logger.info(
            "%s: there is a lock of %s; waiting for up to %.0f s to see whether it is alive",
            self._path.parent,
            _name(before),
            STALE,
        )
        end = time.monotonic() + STALE
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(BEAT / 4, left))
            try:
                now = _read(self._path)
            except Exception:
                # While the storage does not answer, the owner cannot show that it is alive.
                end = time.monotonic() + STALE
                continue
            if now is None:
                return
            if now != before:
                raise _locked(self._path, now or before)
        logger.warning("%s: the lock of %s is stale and is taken over", self._path, _name(before))

    def _is_mine(self, text: str | None) -> bool:
        return _field(text, "id") == self._owner["id"]

    def _beat(self) -> None:
        count = 0
        while not self._over.wait(BEAT):
            count += 1
            # A store that does not answer for a while must not end the run. The errors of clients
            # of object stores have no common class.
            with contextlib.suppress(Exception), self._turn:
                self._confirm()
                self._path.write_text(json.dumps({**self._owner, "beat": count}))

    def _confirm(self) -> None:
        """Reads the file. Raises LockLost if it is not this process's any more.

        Other errors mean that the storage does not answer.
        """
        if self._lost:
            raise self._lost
        if not self._is_mine(text := _read(self._path)):
            self._lost = _lost(self._path, text)
            raise self._lost
        self._seen = time.time()

    def check(self, quick: bool = False) -> None:
        if self._lost:
            raise self._lost
        # A process that has been suspended looks before its first step.
        if quick and abs(time.time() - self._seen) < STALE / 2:
            return
        try:
            with self._turn:
                self._confirm()
        except LockLost:
            raise
        except Exception:
            # Storage that does not answer is reported when the state is saved.
            logger.debug("%s cannot be read", self._path, exc_info=True)

    def release(self) -> None:
        self._over.set()
        self._thread.join()
        with contextlib.suppress(Exception):
            self._confirm()
            self._path.unlink()


def _owner() -> dict[str, Any]:
    """Returns what the lock's file says about this process."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": now,
        "id": uuid.uuid4().hex,
        "machine": _machine(),
    }


def _machine() -> str:
    """Returns what identifies the set of processes in which a process's number is unique.

    Two containers may have the same host name. It is "" where the kernel does not tell.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _has_ended(text: str) -> bool:
    """Returns whether the owner of a lock was a process of this machine and has ended."""
    machine, pid = _field(text, "machine"), _field(text, "pid")
    if not machine or machine != _machine() or not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _field(text: str | None, key: str) -> Any:
    """Returns an entry of a lock file's text, or None."""
    try:
        return json.loads(text or "")[key]
    except (ValueError, KeyError, TypeError):
        return None


def _name(text: str) -> str:
    """Returns the owner of a lock in words."""
    pid, host, since = (_field(text, key) for key in ("pid", "host", "since"))
    return f"process {pid} on {host}, since {since}" if pid and host else "another process"


def _locked(path: epath.Path | Path, text: str) -> Locked:
    """Returns the error for a folder whose lock's file holds `text`."""
    return Locked(
        f"{path.parent} belongs to a run that is under way ({_name(text)}); wait for that run to "
        "end, stop it, or name another folder"
    )


def _lost(path: epath.Path | Path, text: str | None) -> LockLost:
    """Returns the error for a lost lock, from the text that the file has now; None: no file."""
    folder = path.parent
    if text is not None:
        return LockLost(
            f"{folder} was taken by another run ({_name(text)}) while this run trained there; this "
            "run stops without saving. Let one run train in the folder, or name another folder"
        )
    if folder.exists():
        return LockLost(
            f"{path} was deleted while this run trained, so another run may have used the folder; "
            "this run stops without saving. To resume from the newest checkpoint, start the same "
            "command again, and leave the file where it is"
        )
    return LockLost(
        f"{folder} was deleted or moved while this run trained, and with it the checkpoints; this "
        "run stops. If the folder was moved, move it back, or name its new place; otherwise the "
        "same command begins a new run"
    )


def _read(path: epath.Path) -> str | None:
    """Returns the file's text (empty while it is being written), or None if there is no file."""
    try:
        return read_fresh(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
