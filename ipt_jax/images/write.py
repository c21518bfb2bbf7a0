"""Writes restored images strip by strip.

A file appears under its name only when it is complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from PIL import Image

from ipt_jax.images import metadata
from ipt_jax.images.png import PngWriter
from ipt_jax.images.tiff import TiffWriter

# Format -> the suffix of its files.
FORMATS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif", "bmp": ".bmp"}
QUALITY = {"jpeg": 95, "webp": 90}
# Format -> the longest side in pixels.
_SIDES = {"jpeg": 65535, "webp": 16383, "bmp": 2**31 - 1, "png": 2**31 - 1, "tiff": 2**31 - 1}
# The most bytes of an EXIF block in a JPEG: a segment of 65,535 bytes holds it, its own length, the
# word "Exif" and two zeros. `metadata.resized` may need some more bytes than the original.
_JPEG_EXIF = 65_535 - 2 - 6 - 64


class Writer(Protocol):
    """Writes an image file from top to bottom."""

    def write(self, rows: np.ndarray) -> None:
        """Writes the next rows, `[rows, W, C]`, uint8 or uint16."""

    def close(self) -> None:
        """Ends the file after its last row."""


@dataclasses.dataclass(frozen=True)
class Form:
    """The form of an image file to write.

    Attributes:
      format: one of `FORMATS`.
      height, width, channels: of the image.
      depth: bits of a channel, 8 or 16.
      profile: the ICC colour profile, or None.
      exif: the EXIF block from its TIFF header on; `writing` updates the image size in it.
      quality: 1..100 for JPEG and WebP (100 is lossless for WebP), or None for `QUALITY`.
    """

    format: str
    height: int
    width: int
    channels: int
    depth: int = 8
    profile: bytes | None = None
    exif: bytes = b""
    quality: int | None = None

    def fitted(self) -> tuple[Form, list[str]]:
        """Returns the form that the format can hold, and notes on what it cannot hold.

        Raises:
          ValueError: the image is too large for the format.
        """
        side = _SIDES[self.format]
        if max(self.height, self.width) > side:
            raise ValueError(
                f"{self.width}x{self.height} is too large for {self.format}, whose sides end at "
                f"{side}; use --format png"
            )
        lost: list[str] = []
        depth, channels = self.depth, self.channels
        if self.depth == 16 and self.format not in ("png", "tiff"):
            lost.append("16 bits (rounded to 8)")
            depth = 8
        if self.channels in (2, 4) and self.format in ("jpeg", "bmp"):
            lost.append("alpha")
            channels -= 1
        if (self.format, self.channels, self.depth) == ("tiff", 2, 16):
            # Pillow and many other readers cannot read 16-bit grey with alpha.
            channels = 4
        exif = self.exif
        if self.format == "bmp" and (self.profile or self.exif):
            lost.append("colour profile and EXIF")
        if self.format == "jpeg" and len(exif) > _JPEG_EXIF:
            lost.append(f"{len(exif):,} bytes of EXIF (at most {_JPEG_EXIF:,})")
            exif = b""
        notes = [f"{self.format} cannot hold {' and '.join(lost)}: left out"] if lost else []
        fitted = dataclasses.replace(self, depth=depth, channels=channels, exif=exif)
        return fitted, notes


@contextlib.contextmanager
def writing(path: Path, form: Form) -> Iterator[Writer]:
    """Opens a writer of an image file.

    The rows go to a temporary file beside `path`, which takes that name when the context ends
    without an exception.

    Args:
      path: of the finished file.
      form: what to write, as returned by `Form.fitted`.

    Raises:
      OSError: the file cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    exif = metadata.resized(form.exif, form.width, form.height)
    try:
        with part.open("wb") as file:
            rest = (file, form.height, form.width, form.channels, form.depth, form.profile, exif)
            made: Any = {"png": PngWriter, "tiff": TiffWriter}.get(form.format)
            writer: Writer = made(*rest) if made else _PillowWriter(file, form, exif)
            yield writer
            writer.close()
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


class _PillowWriter:
    """Collects the entire image, four bytes per pixel, for formats that Pillow writes at once."""

    def __init__(self, file: BinaryIO, form: Form, exif: bytes):
        self._mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[form.channels]
        if form.channels == 2:
            # WebP has no grey with alpha.
            self._mode = "RGBA"
        self._file, self._form, self._exif, self._row = file, form, exif, 0
        self._image = Image.new(self._mode, (form.width, form.height))

    def write(self, rows: np.ndarray) -> None:
        if rows.dtype == np.uint16:
            rows = ((rows.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
        if rows.shape[2] == 2 and self._mode == "RGBA":
            rows = rows[..., [0, 0, 0, 1]]
        rows = rows[..., : len(self._mode)]
        self._image.paste(
            Image.fromarray(np.squeeze(rows, 2) if rows.shape[2] == 1 else rows), (0, self._row)
        )
        self._row += len(rows)

    def close(self) -> None:
        assert self._row == self._form.height, f"{self._row} of {self._form.height} rows"
        kind, settings = self._form.format, {}
        if kind in QUALITY:
            quality = QUALITY[kind] if self._form.quality is None else self._form.quality
            settings = dict(
                quality=quality,
                icc_profile=self._form.profile,
                exif=b"Exif\0\0" + self._exif if self._exif else b"",
            )
            if kind == "webp":
                settings |= dict(lossless=quality == 100, exact=True, method=4)
            elif quality > 90:
                # 4:4:4: colours keep the full resolution.
                settings |= dict(subsampling=0)
        # Pillow seeks in the file that it writes, so it writes to memory first.
        stream = io.BytesIO()
        self._image.save(stream, kind, **settings)
        self._file.write(stream.getbuffer())
