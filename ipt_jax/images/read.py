"""A picture file to pixels, with what the file says beside them. What is broken is refused, as in
data/decode.py.
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
from ipt_jax.messages import first_line

KINDS: dict[str, Any] = {
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
    "gif": GifImagePlugin.GifImageFile,
}


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture, upright.

    Attributes:
      pixels: `[H, W, C]`, uint8 or uint16; C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB,
        alpha).
      profile: the colour profile (ICC) that the pixels are in; None: not said.
      exif: EXIF from its TIFF header on, without orientation, which the pixels follow; b"": none.
      notes: what the reader should be told, such as that only the first frame was taken.
    """

    pixels: np.ndarray
    profile: bytes | None = None
    exif: bytes = b""
    notes: tuple[str, ...] = ()


def kind_of(start: bytes) -> str:
    """The kind of file by its first 12 bytes.

    Raises:
      DecodeError: none of `KINDS`.
    """
    if start.startswith(b"\xff\xd8"):
        return "jpeg"
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "webp"
    if start[:2] == b"BM":
        return "bmp"
    if start[:4] in (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"):
        return "tiff"
    if start[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    raise DecodeError(
        "an empty file"
        if not start
        else f"not a JPEG, PNG, WebP, BMP, TIFF or GIF: it starts with {start[:8]!r}"
    )


def measure(path: Path) -> tuple[int, int] | None:
    """(height, width) as stored, from the header alone; None where it cannot be read, which `read`
    will explain.
    """
    try:
        with path.open("rb") as file:
            kind = kind_of(file.read(12))
            file.seek(0)
            with KINDS[kind](file) as picture:
                return picture.height, picture.width
    # Pillow raises nearly anything on crafted input
    except Exception:
        return None


def read(path: Path, max_pixels: int = decode.MAX_PIXELS) -> Picture:
    """Reads a JPEG, PNG, WebP, BMP, TIFF or GIF, told by its first bytes.

    Args:
      path: the file.
      max_pixels: a picture that announces more is refused before memory is taken for it.

    Raises:
      DecodeError: not such a picture, truncated, corrupt, too large, or of 32-bit pixels.
      OSError: the file cannot be read.
    """
    data = path.read_bytes()
    kind = kind_of(data[:12])
    try:
        if kind == "jpeg":
            header = decode.jpeg_header(data)
            decode.check_size(header.height, header.width, max_pixels)
            if data.rfind(b"\xff\xd9", header.scan) < 0:
                raise DecodeError("the JPEG is truncated: no end-of-image marker")
        elif kind == "png":
            header = decode.png_header(data)
            decode.check_size(header.height, header.width, max_pixels)
        elif kind == "webp" and len(data) < int.from_bytes(data[4:8], "little") + 8:
            raise DecodeError("the WebP is truncated")
        with KINDS[kind](io.BytesIO(data)) as picture:
            decode.check_size(picture.height, picture.width, max_pixels)
            return _picture(picture, kind, data)
    except (DecodeError, MemoryError):
        raise
    except Exception as error:
        raise DecodeError(f"cannot decode the picture: {first_line(error)}") from error


def _picture(image: Any, kind: str, data: bytes) -> Picture:
    notes = []
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"the first of {frames} {'pages' if kind == 'tiff' else 'frames'}")
    profile = image.info.get("icc_profile")
    turned = image.getexif().get(metadata.ORIENTATION, 1)
    deep = _deep(image, kind, data)
    if kind == "tiff":
        # Pillow and OpenCV turn a TIFF on reading it
        turned = 1
    image.load()
    exif, said = _exif(image)
    notes += said
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
    return Picture(
        np.ascontiguousarray(decode.orient(pixels, turned)), profile or None, exif, tuple(notes)
    )


def _exif(image: Image.Image) -> tuple[bytes, list[str]]:
    try:
        return metadata.exif_of(image), []
    # Damaged EXIF is no reason to refuse the picture
    except Exception as error:
        return b"", [f"its EXIF cannot be read and is left out ({first_line(error)})"]


def _deep(image: Any, kind: str, data: bytes) -> bool:
    """Whether it has 16 bits a channel in a form of which Pillow keeps only eight."""
    if kind == "png":
        return data[24] == 16 and data[25] in (2, 4, 6)
    return (
        kind == "tiff"
        and image.mode in ("RGB", "RGBA", "LA")
        and 16 in image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, ())
    )


def _sixteen_bits(image: Image.Image, kind: str, data: bytes) -> np.ndarray:
    # Pillow has decoded it, too, and so knows that the file is whole.
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None or found.dtype != np.uint16 or found.ndim != 3:
        raise DecodeError("a 16-bit picture of an unsupported kind")
    if image.mode == "LA" or (kind == "png" and data[25] == 4):
        return found[..., [0, 3]]
    return found[..., [2, 1, 0, 3]] if found.shape[2] == 4 else found[..., ::-1]
