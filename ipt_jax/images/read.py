"""Reads an image file for restoration: pixels in their own depth, alpha, and all metadata.

Damaged files are refused, as by :mod:`ipt_jax.images.decode`, which reads training images.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from ipt_jax.errors import DecodeError
from ipt_jax.images import decode, metadata, pillow, png_chunks
from ipt_jax.images.files import open_image_file, read_image_file
from ipt_jax.images.formats import AVIF, sniff_format, unread_format
from ipt_jax.images.metadata import Metadata
from ipt_jax.images.origin import Origin
from ipt_jax.images.write import sidecar_path
from ipt_jax.messages import first_line

# Format -> Pillow's class that reads it.
PLUGINS: dict[str, Any] = {
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
    "gif": GifImagePlugin.GifImageFile,
}
if AVIF:
    from PIL import AvifImagePlugin

    PLUGINS["avif"] = AvifImagePlugin.AvifImageFile


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """The content of an image file, turned upright.

    Attributes:
      pixels: `[H, W, C]`, uint8 or uint16; C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB,
        alpha).
      held: colour profile, EXIF and more. The orientation has been applied to the pixels.
      notes: remarks for the user, such as that only the first frame was read.
    """

    pixels: np.ndarray
    held: Metadata = metadata.NONE
    notes: tuple[str, ...] = ()

    @property
    def profile(self) -> bytes | None:
        """The ICC colour profile of the pixels, or None if the file has none."""
        return self.held.profile

    @property
    def exif(self) -> bytes:
        """The EXIF block from its TIFF header on, without the orientation; b"" for none."""
        return self.held.exif


def kind_of(start: bytes) -> str:
    """Returns the format of a file, a key of `PLUGINS`, by its first 12 bytes.

    Raises:
      DecodeError: the file is empty or in another format.
    """
    kind = sniff_format(start)
    if kind in PLUGINS:
        return str(kind)
    if not start:
        raise DecodeError("an empty file")
    raise DecodeError(
        unread_format(start)
        or f"not a JPEG, PNG, WebP, BMP, TIFF or GIF: it starts with {start[:8]!r}"
    )


def measure(path: Path) -> tuple[int, int] | None:
    """Returns (height, width) as stored, from the header alone.

    Returns None for a file that cannot be read; `read_image` then raises the reason.
    """
    try:
        with open_image_file(path) as file:
            kind = kind_of(file.read(12))
            if kind == "png":
                return png_chunks.measure_png(path)
            file.seek(0)
            with PLUGINS[kind](file) as picture:
                return picture.height, picture.width
    # Pillow raises exceptions of nearly any type for crafted input.
    except Exception:
        return None


def read_image(path: Path, max_pixels: int = decode.MAX_PIXELS) -> ImageFile:
    """Reads a JPEG, PNG, WebP, BMP, TIFF or GIF. The first bytes decide on the format.

    Args:
      path: the file.
      max_pixels: an image whose header announces more pixels is refused before memory is
        allocated for it.

    Raises:
      DecodeError: the file is in another format, is truncated, corrupt or too large, has 32-bit
        pixels, or is not a regular file.
      OSError: the file cannot be opened or read.
    """
    return decode_image(read_image_file(path), max_pixels)


def decode_image(data: bytes, max_pixels: int = decode.MAX_PIXELS) -> ImageFile:
    """Decodes the bytes of an image file; see `read_image`."""
    kind = kind_of(data[:12])
    held: Metadata | None = None
    notes: list[str] = []
    try:
        progressive = False
        if kind == "jpeg":
            progressive = decode.check_jpeg(data, max_pixels).progressive
            if warning := decode.decode_warning(data):
                notes.append(f"the file is damaged ({warning})")
        elif kind == "png":
            decode.check_png(data, max_pixels)
            held, notes = png_chunks.read_metadata(data)
            data = png_chunks.bare(data)
        elif kind == "webp":
            decode.check_webp(data)
        with PLUGINS[kind](io.BytesIO(data)) as picture:
            decode.check_size(picture.height, picture.width, max_pixels)
            if kind == "jpeg":
                picture.load()
                decode.check_jpeg_pixels(data, np.asarray(picture), always=progressive)
            return _image_file(picture, kind, data, held, notes)
    except (DecodeError, MemoryError):
        raise
    except Exception as error:
        raise DecodeError(f"cannot decode the image: {first_line(error)}") from error


def read_origin(path: Path) -> Origin | None:
    """Returns the source and the tasks of a result, or None for a file of unknown origin."""
    # Pillow raises exceptions of nearly any type for crafted input.
    with contextlib.suppress(Exception), open_image_file(path) as file:
        kind = sniff_format(file.read(12))
        file.seek(0)
        found = None
        if kind == "png":
            found = png_chunks.read_origin(file)
        elif kind in ("jpeg", "webp", "tiff"):
            with PLUGINS[kind](file) as picture:
                found = metadata.origin_of(picture.getexif())
        return found or _origin_beside(path)
    return None


def _origin_beside(path: Path) -> Origin | None:
    """Returns the origin of a result whose format cannot hold it."""
    record = json.loads(read_image_file(sidecar_path(path)))
    # Another file may have taken the place of the result.
    same = (record["name"], record["bytes"]) == (path.name, path.stat().st_size)
    return Origin.parse(record["origin"]) if same else None


def _image_file(
    image: Any, kind: str, data: bytes, held: Metadata | None, notes: list[str]
) -> ImageFile:
    """Returns the content of an opened file.

    Args:
      image: the file, opened by Pillow.
      kind: its format.
      data: the bytes of the file.
      held: the metadata of a PNG, with an unchanged EXIF block; None for other formats.
      notes: remarks so far.
    """
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"the first of {frames} {'pages' if kind == 'tiff' else 'frames'}")
    if held is not None and held.exif:
        image.info["exif"] = b"Exif\0\0" + held.exif
    turned = _orientation(image)
    deep = _deep(image, kind, data)
    if kind == "tiff":
        # Pillow and OpenCV apply a TIFF's orientation when they read it.
        turned = 1
    resolution = metadata.dpi_of(image.getexif()) if kind != "gif" else None
    if held is None:
        held = _metadata(image, kind)
    image.load()
    exif, remarks = _exif(image)
    notes += remarks
    if deep:
        pixels = _sixteen_bits(image, kind, data)
    elif image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        notes.append(f"{image.mode} became sRGB")
        pixels = np.asarray(metadata.to_srgb(image, held.profile))
        held = dataclasses.replace(held, profile=None)
    else:
        if (
            image.mode.startswith("I;16")
            and kind == "tiff"
            and (bits := image.tag_v2[TiffImagePlugin.BITSPERSAMPLE][0]) < 16
        ):
            pixels = (pillow.to_array(image).astype(np.uint32) * 65535 // (2**bits - 1)).astype(
                np.uint16
            )
        else:
            pixels = pillow.to_array(image)
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    if image.mode == "I;16" and "transparency" in image.info:
        # Of 16-bit grey, one value is transparent.
        alpha = np.where(pixels == image.info["transparency"], 0, 65535).astype(np.uint16)
        pixels = np.concatenate([pixels, alpha], axis=2)
    held = dataclasses.replace(
        held, profile=held.profile or None, exif=exif, dpi=held.dpi or resolution
    )
    return ImageFile(
        np.ascontiguousarray(decode.orient(pixels, turned)), held.turned(turned), tuple(notes)
    )


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1..8, or 1 where there is none that can be read."""
    try:
        found = image.getexif().get(metadata.ORIENTATION, 1)
    # Damaged EXIF is no reason to refuse the image.
    except Exception:
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _metadata(image: Any, kind: str) -> Metadata:
    """Returns the metadata of a file that is no PNG, without its EXIF."""
    info = image.info
    iptc, xmp, dpi = b"", info.get("xmp", b""), None
    if kind == "jpeg":
        iptc = info.get("photoshop", {}).get(metadata.IPTC_RESOURCE, b"")
        if info.get("jfif_unit") in (1, 2):
            dpi = info.get("dpi")
    elif kind == "tiff":
        iptc = _bytes_of(image.tag_v2.get(metadata.IPTC_TAG, b""))
        if not iptc:
            resources = _bytes_of(image.tag_v2.get(metadata.PHOTOSHOP_TAG, b""))
            iptc = metadata.iptc_of_resources(resources)
    elif kind == "bmp":
        dpi = info.get("dpi")
    comment = info.get("comment", b"") if kind in ("jpeg", "gif") else b""
    if dpi is not None:
        dpi = (float(dpi[0]), float(dpi[1])) if min(dpi) > 0 and max(dpi) < 1e6 else None
    return Metadata(
        profile=info.get("icc_profile"),
        xmp=xmp if isinstance(xmp, bytes) else b"",
        iptc=iptc,
        dpi=dpi,
        texts=(png_chunks.comment_chunk(comment),) if comment else (),
    )


def _bytes_of(value: Any) -> bytes:
    """Returns the bytes of a TIFF tag that some writers declare as 32-bit numbers."""
    if isinstance(value, tuple) and value and isinstance(value[0], int):
        return struct.pack(f"<{len(value)}I", *(number & 0xFFFFFFFF for number in value))
    return value if isinstance(value, bytes) else b""


def _exif(image: Image.Image) -> tuple[bytes, list[str]]:
    """Returns (EXIF block, remarks for the user)."""
    try:
        return metadata.exif_of(image), []
    # Damaged EXIF is no reason to refuse the image.
    except Exception as error:
        return b"", [f"its EXIF cannot be read and is left out ({first_line(error)})"]


def _deep(image: Any, kind: str, data: bytes) -> bool:
    """Tells whether the image has 16-bit channels of which Pillow would keep only eight bits."""
    if kind == "png":
        return data[24] == 16 and data[25] in (2, 4, 6)
    return (
        kind == "tiff"
        and image.mode in ("RGB", "RGBA", "LA")
        and 16 in image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, ())
    )


def _sixteen_bits(image: Image.Image, kind: str, data: bytes) -> np.ndarray:
    """Decodes 16-bit colour with OpenCV; Pillow has decoded the file before, so it is intact."""
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None or found.dtype != np.uint16 or found.ndim != 3:
        raise DecodeError("a 16-bit image of an unsupported kind")
    if image.mode == "LA" or (kind == "png" and data[25] == 4):
        return found[..., [0, 3]]
    return found[..., [2, 1, 0, 3]] if found.shape[2] == 4 else found[..., ::-1]
