"""EXIF blocks and colour profiles, which restoration carries over from input to output."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image, ImageCms

ORIENTATION = 0x0112
EXIF_IFD, GPS_IFD = 0x8769, 0x8825
# Tags of the EXIF directory with the size of the image.
WIDTH, HEIGHT = 0xA002, 0xA003

# Tags of a TIFF's first directory that describe how its pixels are stored, or that have a place of
# their own (XMP, IPTC, EXIF offset, ICC profile). Pillow returns them among the EXIF tags.
_STORAGE = frozenset(
    (
        # Kind, size and coding of the image.
        *(254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266),
        # Strips, orientation, samples, resolution of the strips' layout, and pages.
        *(273, 274, 277, 278, 279, 280, 281, 284, 288, 289, 290, 291, 292, 293, 297, 301),
        # Predictor, palette, tiles, sub-images, inks and extra samples.
        *(317, 318, 319, 320, 321, 322, 323, 324, 325, 330, 332, 333, 334, 336, 338, 339, 340),
        # Sample ranges, JPEG tables, YCbCr.
        *(341, 342, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532),
        # XMP, IPTC, Photoshop, ICC profile, image source data.
        *(700, 33723, 34377, 34675, 37724),
    )
)


def exif_of(image: Image.Image) -> bytes:
    """Returns an image's EXIF as a block that starts with a TIFF header, or b"" for none.

    Orientation, thumbnail and the tags that describe how a TIFF is stored are left out.
    """
    exif = image.getexif()
    for tag in _STORAGE & set(exif):
        del exif[tag]
    for group in (EXIF_IFD, GPS_IFD):
        # Pillow writes a group of tags only after it has been read.
        exif.get_ifd(group)
    # Pillow would write the EXIF of a BigTIFF as a BigTIFF, which is not EXIF any more.
    exif.bigtiff = False
    return exif.tobytes().removeprefix(b"Exif\x00\x00") if len(exif) else b""


def resized(exif: bytes, width: int, height: int) -> bytes:
    """Returns the block with the image's new size, if the block states a size."""
    if not exif:
        return b""
    block = parsed(exif)
    inner = block.get_ifd(EXIF_IFD)
    if WIDTH in inner or HEIGHT in inner:
        inner[WIDTH], inner[HEIGHT] = width, height
    return block.tobytes().removeprefix(b"Exif\x00\x00")


def parsed(exif: bytes) -> Image.Exif:
    """Parses a block that starts with a TIFF header."""
    block = Image.Exif()
    block.load(b"Exif\x00\x00" + exif)
    return block


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Converts CMYK, Lab and other colours to RGB.

    The conversion follows the colour profile if it is usable, and Pillow's formula otherwise.
    """
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            made: Any = ImageCms.profileToProfile(
                image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            return made
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass
    return image.convert("RGB")
