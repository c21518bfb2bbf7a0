"""Reads an image file for restoration: pixels in their own depth, alpha, colour profile, EXIF.

Damaged files are refused, as by :mod:`ipt_jax.images.decode`, which reads training images.
"""

from __future__ import annotations

import dataclasses
import io
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
from ipt_jax.images import decode, metadata, pillow
from ipt_jax.images.files import open_image_file, read_image_file
from ipt_jax.images.formats import AVIF, sniff_format, unread_format
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
      profile: the ICC colour profile of the pixels, or None if the file has none.
      exif: the EXIF block from its TIFF header on, without the orientation, which has been
        applied to the pixels; b"" if the file has none.
      notes: remarks for the user, such as that only the first frame was read.
    """

    pixels: np.ndarray
    profile: bytes | None = None
    exif: bytes = b""
    notes: tuple[str, ...] = ()


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
    data = read_image_file(path)
    kind = kind_of(data[:12])
    try:
        progressive = False
        if kind == "jpeg":
            progressive = decode.check_jpeg(data, max_pixels).progressive
        elif kind == "png":
            decode.check_png(data, max_pixels)
        elif kind == "webp":
            decode.check_webp(data)
        with PLUGINS[kind](io.BytesIO(data)) as picture:
            decode.check_size(picture.height, picture.width, max_pixels)
            if kind == "jpeg":
                picture.load()
                decode.check_jpeg_pixels(data, np.asarray(picture), always=progressive)
            return _image_file(picture, kind, data)
    except (DecodeError, MemoryError):
        raise
    except Exception as error:
        raise DecodeError(f"cannot decode the image: {first_line(error)}") from error


def _image_file(image: Any, kind: str, data: bytes) -> ImageFile:
    notes = []
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"the first of {frames} {'pages' if kind == 'tiff' else 'frames'}")
    profile = image.info.get("icc_profile")
    turned = image.getexif().get(metadata.ORIENTATION, 1)
    deep = _deep(image, kind, data)
    if kind == "tiff":
        # Pillow and OpenCV apply a TIFF's orientation when they read it.
        turned = 1
    image.load()
    exif, remarks = _exif(image)
    notes += remarks
    if deep:
        pixels = _sixteen_bits(image, kind, data)
    elif image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        notes.append(f"{image.mode} became sRGB")
        pixels, profile = np.asarray(metadata.to_srgb(image, profile)), None
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
    return ImageFile(
        np.ascontiguousarray(decode.orient(pixels, turned)), profile or None, exif, tuple(notes)
    )


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
