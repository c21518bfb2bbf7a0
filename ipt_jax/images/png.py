"""Writes PNG files of 8 or 16 bits row by row (W3C PNG, 2nd edition).

Only the last row and the compressor's window stay in memory.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

import numpy as np

from ipt_jax.images.formats import PNG_SIGNATURE
from ipt_jax.images.png_chunks import pack_chunk

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
CHUNK = 1 << 20


class PngWriter:
    """Writes rows from top to bottom into an open file.

    Args:
      file: a binary file that is open for writing.
      height, width: of the image.
      channels: 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha).
      depth: bits of a channel, 8 or 16.
      metadata: the chunks in front of the pixels (`png_chunks.pack_metadata`).
    """

    def __init__(
        self,
        file: BinaryIO,
        height: int,
        width: int,
        channels: int,
        depth: int,
        metadata: bytes = b"",
    ):
        self._file, self._left = file, height
        self._above = np.zeros((1, width * channels * depth // 8), np.uint8)
        # Bytes of a pixel: the distance to the same byte of the pixel on the left.
        self._back = channels * depth // 8
        self._packer, self._packed = zlib.compressobj(6), bytearray()
        file.write(PNG_SIGNATURE)
        self._chunk(
            b"IHDR", struct.pack(">IIBBBBB", width, height, depth, COLOUR_TYPES[channels], 0, 0, 0)
        )
        file.write(metadata)

    def _chunk(self, kind: bytes, body: bytes | bytearray) -> None:
        self._file.write(pack_chunk(kind, body))

    def write(self, rows: np.ndarray) -> None:
        """Writes the next rows, `[rows, W, C]`, uint8 or uint16."""
        self._left -= len(rows)
        swapped = rows.astype(">u2") if rows.dtype == np.uint16 else rows
        data = np.ascontiguousarray(swapped).view(np.uint8).reshape(len(rows), -1)
        # A few rows at a time: the filters need several times their size.
        for first in range(0, len(data), 16):
            part = data[first : first + 16]
            self._packed += self._packer.compress(self._filtered(part).tobytes())
            self._above = part[-1:]
            if len(self._packed) >= CHUNK:
                self._flush()

    def _filtered(self, rows: np.ndarray) -> np.ndarray:
        """Filters rows, and puts the number of the filter in front of each row.

        Of the five filters, each row takes the one with the smallest sum of magnitudes (section
        12.8).
        """
        up = np.concatenate([self._above, rows[:-1]])
        left, corner = np.zeros_like(rows), np.zeros_like(rows)
        left[:, self._back :] = rows[:, : -self._back]
        corner[:, self._back :] = up[:, : -self._back]
        mean = (left >> 1) + (up >> 1) + (left & up & 1)
        options = np.stack(
            [rows, rows - left, rows - up, rows - mean, rows - _paeth(left, up, corner)]
        )
        cost = np.minimum(options, np.uint8(0) - options).sum(axis=2, dtype=np.uint64)
        best = cost.argmin(axis=0)
        return np.concatenate(
            [best.astype(np.uint8)[:, None], options[best, np.arange(len(rows))]], axis=1
        )

    def _flush(self) -> None:
        self._chunk(b"IDAT", self._packed)
        self._packed = bytearray()

    def close(self) -> None:
        """Ends the file after its last row."""
        assert self._left == 0, f"{self._left} rows are missing"
        self._packed += self._packer.flush()
        self._flush()
        self._chunk(b"IEND", b"")


def _paeth(left: np.ndarray, up: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Returns the neighbour that is nearest to left + up - corner (section 9.4)."""
    a, b, c = (x.astype(np.int16) for x in (left, up, corner))
    to_left, to_up, to_corner = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    other = np.where(to_up <= to_corner, up, corner)
    return np.where((to_left <= to_up) & (to_left <= to_corner), left, other)
