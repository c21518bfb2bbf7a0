"""Writes TIFF files of 8 or 16 bits strip by strip (TIFF 6.0; Adobe's supplement 2).

The strips are deflated, with horizontal differencing.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

import numpy as np
from PIL import TiffImagePlugin

from ipt_jax.images import metadata

BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED = 1, 2, 3, 4, 5, 7
# Bytes of a file: offsets have 32 bits.
LARGEST = 2**32 - 2**20
_PACK = {SHORT: "H", LONG: "I"}


class TiffWriter:
    """Writes rows from top to bottom into an open file.

    Args:
      file: a binary file that is open for writing.
      height, width: of the image.
      channels: 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha).
      depth: bits of a channel, 8 or 16.
      held: profile, XMP, IPTC and resolution.
      exif: an EXIF block from its TIFF header on, or b"".
    """

    def __init__(
        self,
        file: BinaryIO,
        height: int,
        width: int,
        channels: int,
        depth: int,
        held: metadata.Metadata = metadata.NONE,
        exif: bytes = b"",
    ):
        self._file, self._left = file, height
        self._strips: list[tuple[int, int]] = []
        self._rows_per_strip = max(1, min(height, (1 << 20) // (width * channels * depth // 8)))
        self._waiting = np.zeros((0, width, channels), np.uint8 if depth == 8 else np.uint16)
        self._held, self._exif = held, exif
        self._tags: dict[int, tuple[int, tuple[int, ...]]] = {
            256: (LONG, (width,)),
            257: (LONG, (height,)),
            258: (SHORT, (depth,) * channels),
            259: (SHORT, (8,)),
            262: (SHORT, (2 if channels > 2 else 1,)),
            277: (SHORT, (channels,)),
            278: (LONG, (self._rows_per_strip,)),
            284: (SHORT, (1,)),
            317: (SHORT, (2,)),
        }
        if channels in (2, 4):
            # Alpha that is not multiplied into the colours.
            self._tags[338] = (SHORT, (2,))
        file.write(b"II*\0\0\0\0\0")

    def write(self, rows: np.ndarray) -> None:
        """Writes the next rows, `[rows, W, C]`, uint8 or uint16."""
        self._left -= len(rows)
        if rows.shape[2] != self._waiting.shape[2]:
            # Rows of grey and alpha for a file of RGB and alpha (see `Form.fitted`).
            rows = rows[..., [0, 0, 0, 1]]
        rows = np.concatenate([self._waiting, rows])
        whole = len(rows) - len(rows) % self._rows_per_strip if self._left else len(rows)
        for first in range(0, whole, self._rows_per_strip):
            self._strip(rows[first : min(first + self._rows_per_strip, whole)])
        self._waiting = rows[whole:].copy()

    def _strip(self, rows: np.ndarray) -> None:
        difference = rows.copy()
        difference[:, 1:] -= rows[:, :-1]
        data = zlib.compress(difference.astype(difference.dtype.newbyteorder("<")).tobytes())
        if self._file.tell() + len(data) > LARGEST:
            raise ValueError("a TIFF holds 4 GB at most; write --format png")
        self._strips.append((self._file.tell(), len(data)))
        self._file.write(data)

    def close(self) -> None:
        """Ends the file after its last row."""
        assert self._left == 0, f"{self._left} rows are missing"
        entries = {
            tag: (kind, len(values), struct.pack(f"<{len(values)}{_PACK[kind]}", *values))
            for tag, (kind, values) in self._tags.items()
        }
        for tag, values in (
            (273, [at for at, _ in self._strips]),
            (279, [size for _, size in self._strips]),
        ):
            entries[tag] = (LONG, len(values), struct.pack(f"<{len(values)}I", *values))
        for tag, kind, data in (
            (metadata.PROFILE_TAG, UNDEFINED, self._held.profile),
            (metadata.XMP_TAG, BYTE, self._held.xmp),
            (metadata.IPTC_TAG, UNDEFINED, self._held.iptc),
        ):
            if data:
                entries[tag] = (kind, len(data), data)
        if self._held.dpi:
            for tag, value in zip((metadata.X_RESOLUTION, metadata.Y_RESOLUTION), self._held.dpi):
                entries[tag] = (RATIONAL, 1, struct.pack("<II", round(value * 10_000), 10_000))
            entries[metadata.UNIT] = (SHORT, 1, struct.pack("<H", 2))
        for tag, text in self._texts():
            entries[tag] = (ASCII, len(text), text)
        for tag in (metadata.EXIF_IFD, metadata.GPS_IFD) if self._exif else ():
            if directory := metadata.parsed(self._exif).get_ifd(tag):
                entries[tag] = (LONG, 1, struct.pack("<I", self._directory(tag, directory)))
        body = struct.pack("<H", len(entries))
        placed = {
            tag: (kind, count, data if len(data) <= 4 else struct.pack("<I", self._place(data)))
            for tag, (kind, count, data) in sorted(entries.items())
        }
        for tag, (kind, count, data) in placed.items():
            body += struct.pack("<HHI4s", tag, kind, count, data.ljust(4, b"\0"))
        where = self._place(body + b"\0\0\0\0")
        self._file.seek(4)
        self._file.write(struct.pack("<I", where))

    def _place(self, data: bytes) -> int:
        """Writes data at the next even offset and returns that offset."""
        self._file.write(b"\0" * (self._file.tell() % 2))
        at = self._file.tell()
        self._file.write(data)
        return at

    def _texts(self) -> list[tuple[int, bytes]]:
        """Returns the text tags of EXIF's first directory: maker, model, date, artist and more."""
        found = metadata.parsed(self._exif).items() if self._exif else ()
        return [
            (tag, value.encode("ascii", "replace") + b"\0")
            for tag, value in found
            if isinstance(value, str)
        ]

    def _directory(self, tag: int, values: dict[int, object]) -> int:
        made = TiffImagePlugin.ImageFileDirectory_v2(group=tag)
        for key, value in values.items():
            made[key] = value
        at = self._file.tell() + self._file.tell() % 2
        return self._place(made.tobytes(at))
