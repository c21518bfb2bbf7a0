"""Local and bucket paths."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

from etils import epath

from ipt_jax.errors import DataError, NotRegular
from ipt_jax.messages import first_line


def is_remote(path: Any) -> bool:
    """Returns whether a path lies on an object store, such as `gs://bucket/run`."""
    return "://" in os.fspath(path)


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
