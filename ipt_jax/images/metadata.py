"""What an image file holds beside its pixels, and what restoration carries over to the result."""

from __future__ import annotations

import dataclasses
import io
import re
from typing import Any

from PIL import Image, ImageCms

from ipt_jax.images.origin import Origin

ORIENTATION = 0x0112
EXIF_IFD, GPS_IFD = 0x8769, 0x8825
# Tags of the EXIF directory with the size of the image.
WIDTH, HEIGHT = 0xA002, 0xA003
# Its tag for what was done to the image.
HISTORY = 0x9213
# Tags of the first directory: pixels per unit, and the unit (2 inch, 3 cm).
X_RESOLUTION, Y_RESOLUTION, UNIT = 282, 283, 296
# Tags of a TIFF.
XMP_TAG, IPTC_TAG, PHOTOSHOP_TAG, PROFILE_TAG = 700, 33723, 34377, 34675
# The resource of a Photoshop block that holds IPTC.
IPTC_RESOURCE = 0x0404

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


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What an image file holds beside its pixels.

    Attributes:
      profile: the ICC colour profile of the pixels, or None.
      exif: the EXIF block from its TIFF header on, without the orientation; b"" for none.
      xmp: the XMP packet; b"" for none.
      iptc: IPTC records (IIM); b"" for none.
      dpi: pixels per inch, horizontal and vertical, or None.
      aspect: horizontal and vertical pixels per unknown unit, or None.
      texts: text chunks of a PNG, as (chunk name, body).
      colour: chunks of a PNG that describe the colours: pairs of name and body.
      origin: what made the file, if it is a result of this package.
    """

    profile: bytes | None = None
    exif: bytes = b""
    xmp: bytes = b""
    iptc: bytes = b""
    dpi: tuple[float, float] | None = None
    aspect: tuple[int, int] | None = None
    texts: tuple[tuple[bytes, bytes], ...] = ()
    colour: tuple[tuple[bytes, bytes], ...] = ()
    origin: Origin | None = None

    def turned(self, orientation: int) -> Metadata:
        """Returns the metadata of the upright image: a quarter turn swaps the two resolutions."""
        if orientation < 5:
            return self
        dpi, aspect = self.dpi, self.aspect
        return dataclasses.replace(
            self, dpi=dpi and (dpi[1], dpi[0]), aspect=aspect and (aspect[1], aspect[0])
        )


NONE = Metadata()


def exif_of(image: Image.Image) -> bytes:
    """Returns an image's EXIF as a block that starts with a TIFF header, or b"" for none.

    Orientation, thumbnail and the tags that describe how a TIFF is stored are left out.
    """
    exif = image.getexif()
    for tag in _STORAGE & set(exif):
        del exif[tag]
    if image.format == "TIFF":
        # A TIFF's own resolution, which `dpi_of` reads before.
        for tag in (X_RESOLUTION, Y_RESOLUTION, UNIT):
            exif.pop(tag, None)
    inner = exif.get_ifd(EXIF_IFD)
    if Origin.parse(inner.get(HISTORY)) is not None:
        del inner[HISTORY]
        if not inner:
            del exif[EXIF_IFD]
    # Pillow writes a group of tags only after it has been read.
    exif.get_ifd(GPS_IFD)
    # Pillow would write the EXIF of a BigTIFF as a BigTIFF, which is not EXIF any more.
    exif.bigtiff = False
    return exif.tobytes().removeprefix(b"Exif\x00\x00") if len(exif) else b""


def origin_of(exif: Image.Exif) -> Origin | None:
    """Returns the record of a result in its EXIF, or None."""
    return Origin.parse(exif.get_ifd(EXIF_IFD).get(HISTORY))


def resized(exif: bytes, width: int, height: int) -> bytes:
    """Returns the block with the image's new size, if the block states a size."""
    if not exif:
        return b""
    block = parsed(exif)
    inner = block.get_ifd(EXIF_IFD)
    if WIDTH in inner or HEIGHT in inner:
        inner[WIDTH], inner[HEIGHT] = width, height
    return block.tobytes().removeprefix(b"Exif\x00\x00")


def with_history(exif: bytes, text: str) -> bytes:
    """Returns the block with a text about what was done to the image."""
    block = parsed(exif) if exif else Image.Exif()
    block.get_ifd(GPS_IFD)
    # In this directory, because libtiff warns of tags that it does not know in the first one.
    block.get_ifd(EXIF_IFD)[HISTORY] = text
    return block.tobytes().removeprefix(b"Exif\x00\x00")


def with_resolution(exif: bytes, dpi: tuple[float, float]) -> bytes:
    """Returns the block with the pixels per inch."""
    block = parsed(exif) if exif else Image.Exif()
    block[X_RESOLUTION], block[Y_RESOLUTION], block[UNIT] = dpi[0], dpi[1], 2
    for group in (EXIF_IFD, GPS_IFD):
        block.get_ifd(group)
    return block.tobytes().removeprefix(b"Exif\x00\x00")


def dpi_of(exif: Image.Exif) -> tuple[float, float] | None:
    """Returns the pixels per inch that EXIF states, or None."""
    try:
        x, y = float(exif[X_RESOLUTION]), float(exif[Y_RESOLUTION])
        factor = {2: 1.0, 3: 2.54}[exif.get(UNIT, 2)]
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (x * factor, y * factor) if 0 < x < 1e6 and 0 < y < 1e6 else None


# Properties of XMP that no longer hold: the pixels have been turned upright, and may be more.
_XMP_PROPERTIES = (
    ("tiff:Orientation", None),
    ("tiff:ImageWidth", "width"),
    ("tiff:ImageLength", "height"),
    ("exif:PixelXDimension", "width"),
    ("exif:PixelYDimension", "height"),
)


def resized_xmp(xmp: bytes, width: int, height: int) -> bytes:
    """Returns the packet with the image's new size and without its former orientation."""
    sizes = {"width": width, "height": height, None: 1}
    for name, side in _XMP_PROPERTIES:
        pattern = rf"(<{name}>|{name}\s*=\s*[\"'])\s*\d+\s*".encode()
        xmp = re.sub(pattern, rb"\g<1>%d" % sizes[side], xmp)
    return xmp


def iptc_of_resources(block: bytes) -> bytes:
    """Returns the IPTC records in a Photoshop block (a sequence of 8BIM resources), or b""."""
    at = 0
    while block[at : at + 4] == b"8BIM" and len(block) >= at + 8:
        kind = int.from_bytes(block[at + 4 : at + 6], "big")
        # The name is padded to an even number of bytes, its length included.
        at += 6 + (block[at + 6] + 2) // 2 * 2
        size = int.from_bytes(block[at : at + 4], "big")
        if kind == IPTC_RESOURCE:
            return block[at + 4 : at + 4 + size]
        at += 4 + size + size % 2
    return b""


def resources_of_iptc(iptc: bytes) -> bytes:
    """Returns a Photoshop block with these IPTC records."""
    head = b"8BIM" + IPTC_RESOURCE.to_bytes(2, "big") + b"\0\0" + len(iptc).to_bytes(4, "big")
    return head + iptc + b"\0" * (len(iptc) % 2)


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
