"""Pixels to a picture file, strip by strip, and never half a file under the picture's name."""

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

FORMATS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif", "bmp": ".bmp"}
QUALITY = {"jpeg": 95, "webp": 90}
_SUFFIXES = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".bmp": "bmp",
}
_SIDES = {"jpeg": 65535, "webp": 16383, "bmp": 2**31 - 1, "png": 2**31 - 1, "tiff": 2**31 - 1}


class Writer(Protocol):
    def write(self, rows: np.ndarray) -> None:
        """Takes the next rows `[rows, W, C]`."""

    def close(self) -> None:
        """Ends the file, once all rows are there."""


@dataclasses.dataclass(frozen=True)
class Form:
    """What a picture file is to hold.

    Attributes:
      format: one of `FORMATS`.
      height, width, channels: of the picture.
      depth: 8 or 16 bits.
      profile: colour profile (ICC).
      exif: from its TIFF header on; its size of the picture is set right.
      quality: 1..100, for jpeg and webp (there 100 is lossless); None: `QUALITY`.
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
        """What the format can hold of it, and what it cannot, in words.

        Raises:
          ValueError: a picture that is too large for the format.
        """
        side = _SIDES[self.format]
        if max(self.height, self.width) > side:
            raise ValueError(
                f"{self.width}x{self.height} is too large for {self.format}, whose sides end at "
                f"{side}; "
                "use --format png"
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
            # Many readers, Pillow among them, know no 16-bit grey with alpha
            channels = 4
        if self.format == "bmp" and (self.profile or self.exif):
            lost.append("colour profile and EXIF")
        said = [f"{self.format} cannot hold {' and '.join(lost)}: left out"] if lost else []
        return dataclasses.replace(self, depth=depth, channels=channels), said


def format_of(path: Path) -> str | None:
    """The format that a file's name asks for."""
    return _SUFFIXES.get(path.suffix.lower())


@contextlib.contextmanager
def writing(path: Path, form: Form) -> Iterator[Writer]:
    """A writer of `form` (which must be `fitted`); the file is at `path` when all is done, and only
    then.

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
    """For what Pillow writes at once: the picture is held whole, four bytes a pixel."""

    def __init__(self, file: BinaryIO, form: Form, exif: bytes):
        self._mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[form.channels]
        if form.channels == 2:
            # WebP has no grey with alpha
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
                # Colours at full size
                settings |= dict(subsampling=0)
        # Pillow seeks back and forth
        stream = io.BytesIO()
        self._image.save(stream, kind, **settings)
        self._file.write(stream.getbuffer())
