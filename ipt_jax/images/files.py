"""Opens image files: only regular files, up to a size."""

from __future__ import annotations

import os
from io import BufferedReader

from ipt_jax.errors import DecodeError, NotRegular
from ipt_jax.storage import open_regular, read_regular

# Bytes of the largest image file that is read.
MAX_BYTES = 2 << 30


def read_image_file(path: str | os.PathLike[str]) -> bytes:
    """Returns the bytes of an image file.

    Raises:
      DecodeError: it is not a regular file, or has more than `MAX_BYTES` bytes.
      OSError: it cannot be opened or read.
    """
    try:
        return read_regular(path, MAX_BYTES)
    except NotRegular as error:
        raise DecodeError(error.strerror) from None


def open_image_file(path: str | os.PathLike[str]) -> BufferedReader:
    """Opens an image file for reading. Raises as `read_image_file`."""
    try:
        return open_regular(path, MAX_BYTES)
    except NotRegular as error:
        raise DecodeError(error.strerror) from None
