"""Writes restored images strip by strip.

A file appears under its name only when it is complete.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import io
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from PIL import Image

from ipt_jax.images import channels, icc, metadata, png_chunks
from ipt_jax.images.metadata import Metadata
from ipt_jax.images.origin import Origin
from ipt_jax.images.png import PngWriter
from ipt_jax.images.tiff import TiffWriter
from ipt_jax.messages import listed

# Format -> the suffix of its files.
FORMATS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif", "bmp": ".bmp"}
QUALITY = {"jpeg": 95, "webp": 90}
# Format -> the longest side in pixels.
_SIDES = {"jpeg": 65535, "webp": 16383, "bmp": 2**31 - 1, "png": 2**31 - 1, "tiff": 2**31 - 1}
# Bytes of a file name on the usual file systems.
LONGEST_NAME = 255
# BT.709 primaries, the transfer function of sRGB, RGB, full range.
_SRGB_CICP = bytes((1, 13, 0, 1))


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
      held: profile, EXIF, XMP and more; `writing` updates the image size in EXIF and XMP.
      quality: 1..100 for JPEG and WebP (100 is lossless for WebP), or None for `QUALITY`.
      background: the colour with which alpha is blended where the format has no alpha, or None for
        leaving alpha out.
      origin: the source and the tasks, which are recorded in the file, or None.
    """

    format: str
    height: int
    width: int
    channels: int
    depth: int = 8
    held: Metadata = metadata.NONE
    quality: int | None = None
    background: tuple[int, int, int] | None = None
    origin: Origin | None = None

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
        depth, channels, background = self.depth, self.channels, None
        if self.depth == 16 and self.format not in ("png", "tiff"):
            lost.append("16 bits (rounded to 8)")
            depth = 8
        if self.channels in (2, 4) and self.format in ("jpeg", "bmp"):
            background = self.background
            if background is None:
                lost.append("alpha (--background white blends it)")
                channels -= 1
            else:
                channels = 1 if self.channels == 2 and len(set(background)) == 1 else 3
        if (self.format, self.channels, self.depth) == ("tiff", 2, 16):
            # Pillow and many other readers cannot read 16-bit grey with alpha.
            channels = 4
        colours = channels > 2 or self.format in ("webp", "bmp")
        held, notes = _fitted_colours(self.held, self.format, self.channels > 2, colours)
        held, more = _fitted_metadata(held, self.format)
        lost += more
        if lost:
            notes.insert(0, f"{self.format} cannot hold {' and '.join(lost)}: left out")
        form = dataclasses.replace(
            self, depth=depth, channels=channels, held=held, background=background
        )
        return form, notes

    def resized(self) -> Form:
        """Returns the form with this size in EXIF and XMP."""
        held = dataclasses.replace(
            self.held,
            exif=metadata.resized(self.held.exif, self.width, self.height),
            xmp=metadata.resized_xmp(self.held.xmp, self.width, self.height),
        )
        return dataclasses.replace(self, held=held)

    def exif_block(self) -> bytes:
        """Returns the EXIF of the file: also the origin and, for WebP, the resolution."""
        exif = self.held.exif
        if self.origin and self.format in ("jpeg", "webp", "tiff"):
            exif = metadata.with_history(exif, self.origin.text())
        if self.format == "webp" and self.held.dpi:
            exif = metadata.with_resolution(exif, self.held.dpi)
        return exif


def _fitted_colours(
    held: Metadata, form: str, colours_before: bool, colours: bool
) -> tuple[Metadata, list[str]]:
    """Returns metadata whose description of the colours fits the file, and notes.

    A profile for grey never stays in a file that is stored as RGB: an RGB profile with the same
    tone curve takes its place. What a PNG says about its colours without a profile becomes a
    profile in other formats.

    Args:
      held: the metadata of the image.
      form: the format.
      colours_before: whether the image has colours, rather than grey.
      colours: whether the file stores RGB.
    """
    notes = []
    profile = held.profile
    space = icc.colour_space(profile) if profile else "RGB"
    if profile and colours and space != "RGB":
        profile = None if colours_before or space != "GRAY" else icc.rgb_from_grey(profile)
        if profile is None:
            notes.append(f"its {space} profile does not fit an RGB image: left out")
    chunks = dict(held.colour)
    if form == "png" or not chunks:
        return dataclasses.replace(held, profile=profile), notes
    if chunks.get(b"cICP", _SRGB_CICP) != _SRGB_CICP:
        notes.append(f"{form} cannot hold the colour space that the PNG names (cICP): left out")
    elif profile is None and not {b"sRGB", b"cICP"} & set(chunks):
        gamma = int.from_bytes(chunks.get(b"gAMA", b""), "big") or 45455
        primaries = icc.SRGB_CHROMATICITIES
        if len(chunks.get(b"cHRM", b"")) == 32:
            values = struct.unpack(">8I", chunks[b"cHRM"])
            primaries = tuple(value / 100_000 for value in values)
        near = max(abs(a - b) for a, b in zip(primaries, icc.SRGB_CHROMATICITIES)) < 0.002
        if not near or abs(gamma - 45455) > 500:
            if colours and 0 not in primaries[1::2]:
                profile = icc.rgb_from_gamma(100_000 / gamma, primaries)
            else:
                notes.append(f"{form} cannot hold the gamma of a grey PNG (gAMA): left out")
    return dataclasses.replace(held, profile=profile, colour=()), notes


def _fitted_metadata(held: Metadata, form: str) -> tuple[Metadata, list[str]]:
    """Returns the metadata that the format can hold, and the names of the rest."""
    lost: list[str] = []
    changes: dict[str, Any] = {}

    def drop(field: str, name: str) -> None:
        if getattr(held, field):
            lost.append(name)
            changes[field] = metadata.NONE.__dict__[field]

    if form == "bmp":
        for field, name in (("profile", "colour profile"), ("exif", "EXIF"), ("xmp", "XMP")):
            drop(field, name)
    if form == "jpeg":
        # The size of a segment, without what stands in front of the block.
        for field, name, most in (("exif", "EXIF", 64_000), ("xmp", "XMP", 65_500)):
            if len(getattr(held, field)) > most:
                drop(field, f"{len(getattr(held, field)):,} bytes of {name}")
        if len(held.iptc) > 65_000:
            drop("iptc", f"{len(held.iptc):,} bytes of IPTC")
    if form in ("webp", "bmp"):
        drop("iptc", "IPTC")
    if form != "png":
        kept = held.texts[:0]
        if form == "jpeg":
            kept = tuple(chunk for chunk in held.texts if _is_comment(chunk))[:1]
        rest = [name for name in png_chunks.keywords(held.texts) if name != "Comment" or not kept]
        if rest:
            lost.append(f"text ({listed(dict.fromkeys(rest))})")
        changes["texts"] = kept
        if held.aspect and held.aspect[0] != held.aspect[1]:
            drop("aspect", "the ratio of a pixel's sides")
    return dataclasses.replace(held, **changes), lost


def _is_comment(chunk: tuple[bytes, bytes]) -> bool:
    return png_chunks.keywords((chunk,)) == ["Comment"] and len(chunk[1]) < 60_000


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
    with replacing(path) as file:
        writer = _writer(file, form.resized())
        yield writer
        writer.close()
        if form.origin and form.format == "bmp":
            file.flush()
            write_sidecar(path, os.fstat(file.fileno()).st_size, form.origin)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Opens a temporary file that takes the name `path` when the context ends without an exception.

    The file is on the disk before it gets its name, also on network file systems. What a killed
    process left of such a file is overwritten. Two processes never write the same result at a time,
    as a job and its replacement may try: the second one is refused.

    Raises:
      OSError: the file cannot be written, or another process is writing it.
    """
    part = part_path(path)
    with _open_alone(part) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            # The name changes before the lock ends with the file.
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _open_alone(part: Path) -> BinaryIO:
    """Opens a file for writing, empty and locked against other processes that open it so."""
    while True:
        # It is not cut before it is locked.
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        file = os.fdopen(descriptor, "r+b")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise OSError(errno.EBUSY, "another process is writing this result") from None
        except OSError:
            # Some network file systems have no locks.
            pass
        # The process that held the lock may have renamed or deleted the file in between.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), part.stat()):
                file.truncate()
                return file
        file.close()


def fitted_name(stem: str, rest: str) -> str:
    """Returns stem + rest; a name that is too long for a file gets a shorter stem."""
    if len(os.fsencode(stem + rest)) <= LONGEST_NAME:
        return stem + rest
    digest = hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]
    room = LONGEST_NAME - len(os.fsencode(rest)) - len(digest) - 1
    # Only complete characters are kept.
    return f"{os.fsencode(stem)[:room].decode(errors='ignore')}-{digest}{rest}"


def part_path(path: Path) -> Path:
    """Returns the temporary file for a result: a short name, whatever the length of the name."""
    return path.with_name(f".ipt-{_digest(path)}.part{path.suffix[:12]}")


def sidecar_path(path: Path) -> Path:
    """Returns the file that records the origin of a result whose format cannot hold it."""
    return path.with_name(f".ipt-{_digest(path)}.json")


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]


def write_sidecar(path: Path, size: int, origin: Origin) -> None:
    """Records the origin of a result of `size` bytes beside the result."""
    record = {"name": path.name, "bytes": size, "origin": origin.text()}
    sidecar_path(path).write_text(json.dumps(record) + "\n")


def _writer(file: BinaryIO, form: Form) -> Writer:
    exif = form.exif_block()
    size = (form.height, form.width, form.channels, form.depth)
    if form.format == "png":
        return PngWriter(file, *size, png_chunks.pack_metadata(form.held, exif, form.origin))
    if form.format == "tiff":
        return TiffWriter(file, *size, form.held, exif)
    return _PillowWriter(file, form, exif)


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
        if self._form.background is not None:
            rows = channels.blended(rows, self._form.background)
        if rows.shape[2] == 2 and self._mode == "RGBA":
            rows = rows[..., [0, 0, 0, 1]]
        rows = rows[..., : len(self._mode)]
        self._image.paste(
            Image.fromarray(np.squeeze(rows, 2) if rows.shape[2] == 1 else rows), (0, self._row)
        )
        self._row += len(rows)

    def close(self) -> None:
        assert self._row == self._form.height, f"{self._row} of {self._form.height} rows"
        kind, held = self._form.format, self._form.held
        settings: dict[str, Any] = {}
        if held.dpi and kind != "webp":
            settings |= dict(dpi=held.dpi)
        if kind in QUALITY:
            quality = QUALITY[kind] if self._form.quality is None else self._form.quality
            settings |= dict(
                quality=quality,
                icc_profile=held.profile,
                exif=b"Exif\0\0" + self._exif if self._exif else b"",
            )
            if held.xmp:
                settings |= dict(xmp=held.xmp)
            if kind == "webp":
                settings |= dict(lossless=quality == 100, exact=True, method=4)
            else:
                settings |= self._jpeg_settings(quality)
        # Pillow seeks in the file that it writes, so it writes to memory first.
        stream = io.BytesIO()
        self._image.save(stream, kind, **settings)
        self._file.write(stream.getbuffer())

    def _jpeg_settings(self, quality: int) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        held = self._form.held
        if quality > 90:
            # 4:4:4: colours keep the full resolution.
            settings |= dict(subsampling=0)
        if held.iptc:
            block = b"Photoshop 3.0\0" + metadata.resources_of_iptc(held.iptc)
            settings |= dict(extra=b"\xff\xed" + struct.pack(">H", len(block) + 2) + block)
        for kind, body in held.texts:
            settings |= dict(comment=png_chunks.text_of(kind, body))
        return settings
