"""Local and bucket paths."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from etils import epath

from ipt_jax.errors import DataError
from ipt_jax.messages import first_line


def is_remote(path: Any) -> bool:
    """Returns whether a path lies on an object store, such as `gs://bucket/run`."""
    return "://" in os.fspath(path)


def absolute(path: epath.Path) -> epath.Path:
    """Returns a local path as an absolute one; a path with a scheme is absolute already.

    `resolve()` of etils takes `gs://bucket/run` for a relative path.
    """
    return path if is_remote(path) else path.expanduser().resolve()


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
