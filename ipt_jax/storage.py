"""Local and bucket paths."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from etils import epath
from etils.epath.backend import fsspec_backend

from ipt_jax.errors import ConfigError, DataError, NotRegular
from ipt_jax.messages import first_line

# The bytes that a file's name may have on Linux and macOS, and those that a workdir's path may
# have: the names in a checkpoint take the rest.
_NAME_BYTES = 255
_PATH_BYTES = os.pathconf("/", "PC_PATH_MAX") - 256

# The object stores that etils opens; it takes the local path /gs/a for gs://a.
_SCHEMES = ("gs", "s3", "az", "hf")


# The begin of an address. A local path that looks like one is written as ./gs:/a.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")


def scheme_of(path: Any) -> str:
    """Returns the scheme of an address, such as "gs" for `gs://bucket/run`; "" for a local path.

    `gs:/bucket/run`, which `pathlib` makes of it, counts as an address as well.
    """
    found = _ADDRESS.match(os.fspath(path))
    return found[1] if found else ""


def check_supported(path: Any) -> None:
    """Checks that a path is local or on Google Cloud Storage, the only store that was tried.

    Raises:
      ConfigError: it is an address on another store.
    """
    scheme = scheme_of(path)
    if scheme not in ("", "gs"):
        raise ConfigError(
            f"{os.fspath(path)}: {scheme}:// is not supported, only local folders and gs:// are; "
            "copy the files to a local disk, or mount the store as a folder and name that folder"
        )


def is_remote(path: Any) -> bool:
    """Returns whether a path lies on an object store, such as `gs://bucket/run`."""
    return "://" in os.fspath(path)


def expanded(path: str | os.PathLike[str]) -> epath.Path:
    """Returns a path with a leading `~` replaced by the home directory.

    The result can be expanded again without a change: a relative path to a folder named `~`, which
    the user writes as `./~`, becomes absolute.

    Raises:
      ConfigError: the path is on a store that is not supported; see `check_supported`.
    """
    text = os.fspath(path)
    check_supported(text)
    if is_remote(text):
        return epath.Path(text)
    found = epath.Path(os.path.expanduser(text))
    return epath.Path(os.path.join(os.getcwd(), found)) if str(found).startswith("~") else found


def absolute(path: str | os.PathLike[str]) -> epath.Path:
    """Returns the absolute path of a local path; a path with a scheme (`gs://`) is not changed.

    Raises:
      ConfigError: the path is on a store that is not supported; see `check_supported`.
    """
    found = expanded(path)
    if is_remote(found):
        return found
    if ".." in found.parts:
        # `link/..` is the parent of the link's target, so ".." cannot be removed from the text.
        return epath.Path(os.path.realpath(found))
    return epath.Path(os.path.join(os.getcwd(), found))


def check_workdir(path: str | os.PathLike[str]) -> None:
    """Checks that checkpoints can be kept under this path. Nothing is created.

    Raises:
      ConfigError: the path has a character or a length that a checkpoint cannot have, or is a
        link to a folder that does not exist. The message names it.
    """
    text = os.fspath(path)
    shown = f"workdir {ascii(text) if not text.isprintable() else text}"
    check_supported(text)
    if is_remote(text):
        # The client libraries of object stores read these as patterns, also when they delete.
        if bad := re.search(r"[\[\]*?#\\\r\n]", text):
            raise ConfigError(
                f"{shown} contains {bad[0]!r}, which clients of object stores read as a pattern or "
                "refuse; name another folder"
            )
        return
    if not text or "\0" in text:
        raise ConfigError(f"{shown} is not a path; name a folder")
    # Not through etils, which takes some local paths for remote ones.
    found = os.path.join(os.getcwd(), os.path.expanduser(text))
    if "\\" in found:
        raise ConfigError(
            f"{shown} contains a backslash, which TensorStore, the library that writes the "
            "checkpoints, cannot have in a path; name another folder"
        )
    # What the libraries take for an address of an object store.
    parts = [part for part in found.split("/") if part]
    if odd := [part for part in parts if part.endswith("gs:")]:
        raise ConfigError(
            f"{shown} has a folder {odd[0]!r}, which Orbax, the library that writes the "
            "checkpoints, takes for the begin of a gs:// address; name another folder"
        )
    if parts and parts[0] in _SCHEMES:
        raise ConfigError(
            f"{shown} lies in /{parts[0]}, which etils, the library that opens the files, takes "
            f"for {parts[0]}://; name another folder"
        )
    try:
        name = found.encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{shown} is not UTF-8 text, which TensorStore, the library that writes the "
            "checkpoints, needs; name another folder"
        ) from None
    longest = max(len(part) for part in name.split(b"/"))
    if longest > _NAME_BYTES or len(name) > _PATH_BYTES:
        raise ConfigError(
            f"{shown} is too long: a name may have {_NAME_BYTES} bytes, and the path "
            f"{_PATH_BYTES}, but these have {longest} and {len(name)}"
        )
    local = Path(found)
    if local.is_symlink() and not local.exists():
        raise ConfigError(
            f"{shown} is a link to {os.readlink(local)!a}, which does not exist; create that "
            "folder, or name another one"
        )


def read_fresh(path: epath.Path) -> str:
    """Reads a text file that another host may have changed a moment ago.

    fsspec, through which etils reads object stores, keeps listings of folders in memory and takes
    the size of a file from them.

    Raises:
      FileNotFoundError: there is no such file.
      OSError: the storage does not answer.
    """
    if is_remote(path):
        # TensorFlow's client, which etils may use instead, has no such memory.
        with contextlib.suppress(ImportError):
            fsspec_backend.fs(path).invalidate_cache()
    # A damaged file may hold bytes that are no text.
    return path.read_bytes().decode(errors="replace")


def reachable(path: epath.Path, what: str) -> None:
    """Checks that the package that opens paths of this kind is installed.

    Args:
      path: a local path, or one on an object store.
      what: the flag or config key that holds the path, for the message.

    Raises:
      DataError: the package that opens `gs://` paths is missing.
    """
    try:
        path.exists()
    except ImportError as error:
        raise DataError(
            f"{what}={os.fspath(path)}: {first_line(error)}: pip install gcsfs"
        ) from error


def replace_bytes(path: epath.Path | Path, data: bytes) -> None:
    """Writes `<path>.new` and renames it to `path`: a reader sees the old content or the new."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_bytes(data)
    fresh.replace(path)


def replace_text(path: epath.Path | Path, text: str) -> None:
    """Does for a text what `replace_bytes` does for bytes; the encoding is UTF-8."""
    replace_bytes(path, text.encode())


# What a path can be beside a regular file, by the type in its mode.
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def check_regular(path: str | os.PathLike[str], limit: int | None = None) -> None:
    """Checks that a local path is a regular file, or a link to one, without opening it.

    Args:
      path: the file.
      limit: the most bytes that it may have; None for no limit.

    Raises:
      NotRegular: it is something else, which could block a reader or never end, or it is larger
        than `limit`.
      OSError: it does not exist or cannot be reached.
    """
    _check_status(os.stat(path), path, limit)


def open_regular(path: str | os.PathLike[str], limit: int | None = None) -> BufferedReader:
    """Opens a regular local file for reading bytes. Arguments and errors are `check_regular`'s."""
    # Opening a pipe would release its writer, so the path is checked before. It is checked again
    # after it was opened, since another process may have replaced it; O_NONBLOCK then keeps a pipe
    # from blocking, and has no effect on a regular file.
    check_regular(path, limit)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    file = open(path, "rb", opener=lambda name, _: os.open(name, flags))  # noqa: SIM115
    try:
        _check_status(os.fstat(file.fileno()), path, limit)
    except BaseException:
        file.close()
        raise
    return file


def read_regular(path: str | os.PathLike[str], limit: int) -> bytes:
    """Returns the content of a regular local file of at most `limit` bytes.

    At most as many bytes are read as the file had when it was opened. Files in /proc that never end
    have a size of 0.

    Raises:
      NotRegular, OSError: see `check_regular`.
    """
    with open_regular(path, limit) as file:
        return file.read(os.fstat(file.fileno()).st_size)


def _check_status(status: os.stat_result, path: str | os.PathLike[str], limit: int | None) -> None:
    name = os.fspath(path)
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise NotRegular(errno.EINVAL, f"it is {kind}, not a regular file", name)
    if limit is not None and status.st_size > limit:
        raise NotRegular(
            errno.EFBIG,
            f"it has {status.st_size:,} bytes, more than the limit of {limit:,}",
            name,
        )


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
