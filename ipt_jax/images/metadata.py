"""EXIF and colour profiles: what is kept of them beside the pixels."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image, ImageCms

ORIENTATION = 0x0112
EXIF_IFD, GPS_IFD = 0x8769, 0x8825
# Of the picture, in the EXIF directory
WIDTH, HEIGHT = 0xA002, 0xA003

# Of a TIFF's first directory, which Pillow takes for EXIF: how its pixels are stored, and what has
# a place of its own.
_STORAGE = frozenset(
    (
        254,
        255,
        256,
        257,
        258,
        259,
        262,
        263,
        264,
        265,
        266,
        273,
        274,
        277,
        278,
        279,
        280,
        281,
        284,
        288,
        289,
        290,
        291,
        292,
        293,
        297,
        301,
        317,
        318,
        319,
        320,
        321,
        322,
        323,
        324,
        325,
        330,
        332,
        333,
        334,
        336,
        338,
        339,
        340,
        341,
        342,
        347,
        512,
        513,
        514,
        515,
        517,
        518,
        519,
        520,
        521,
        529,
        530,
        531,
        532,
        700,
        33723,
        34377,
        34675,
        37724,
    )
)


def exif_of(image: Image.Image) -> bytes:
    """Its EXIF as a block that starts with a TIFF header, without orientation and thumbnail; b""
    where there is none.
    """
    exif = image.getexif()
    for tag in _STORAGE & set(exif):
        del exif[tag]
    for group in (EXIF_IFD, GPS_IFD):
        # Read now: it is written only if it was
        exif.get_ifd(group)
    return exif.tobytes().removeprefix(b"Exif\x00\x00") if len(exif) else b""


def resized(exif: bytes, width: int, height: int) -> bytes:
    """The block with the picture's new size, where it tells a size."""
    if not exif:
        return b""
    block = parsed(exif)
    inner = block.get_ifd(EXIF_IFD)
    if WIDTH in inner or HEIGHT in inner:
        inner[WIDTH], inner[HEIGHT] = width, height
    return block.tobytes().removeprefix(b"Exif\x00\x00")


def parsed(exif: bytes) -> Image.Exif:
    block = Image.Exif()
    block.load(b"Exif\x00\x00" + exif)
    return block


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """CMYK, Lab, ... to RGB: by its colour profile where it has a usable one, else as Pillow
    does.
    """
    if profile:
        try:
            theirs = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            made: Any = ImageCms.profileToProfile(
                image, theirs, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            return made
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass
    return image.convert("RGB")
