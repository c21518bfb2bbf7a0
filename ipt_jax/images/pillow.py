"""Conversion between Pillow images and arrays, for callers who pass a Pillow image."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from ipt_jax.images import icc, metadata

PLAIN = ("L", "LA", "RGB", "RGBA")
# Entries of a Pillow image's `info` that hold for its restored image too.
KEPT = (
    *("icc_profile", "exif", "xmp", "dpi", "aspect", "comment", "photoshop"),
    *("gamma", "chromaticity", "srgb"),
)


def is_picture(image: Any) -> bool:
    """Tells whether this is a Pillow image."""
    return isinstance(image, Image.Image)


def to_array(image: Image.Image) -> np.ndarray:
    """Converts a Pillow image to an array.

    A palette becomes RGB, transparency becomes an alpha channel, and CMYK and other colours become
    RGB by Pillow's formula.

    Returns:
      uint8 `[H, W]` (grey), `[H, W, 2]` (grey, alpha), `[H, W, 3]` or `[H, W, 4]`; uint16 `[H, W]`
      for 16-bit grey.

    Raises:
      ValueError: the pixels are floating point or 32-bit integers, whose range is unknown.
    """
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode in ("F", "I"):
        raise ValueError(
            f"pixels of mode {image.mode} (32 bits) have no known range; convert to 8 or 16 bits"
        )
    if image.mode not in PLAIN or image.has_transparency_data:
        grey = image.mode in ("1", "L", "LA", "La")
        alpha = image.has_transparency_data
        wanted = ("LA" if alpha else "L") if grey else ("RGBA" if alpha else "RGB")
        image = image if image.mode == wanted else image.convert(wanted)
    return np.asarray(image)


def from_array(pixels: np.ndarray, like: Image.Image) -> Image.Image:
    """Converts a restored array to a Pillow image with the metadata of `like` that still holds.

    Colour profile, EXIF with the new size, XMP, resolution, the colour chunks of a PNG, and text.
    """
    made = Image.fromarray(pixels)
    text = getattr(like, "text", {})
    for key in (*KEPT, *text):
        if key in like.info:
            made.info[key] = like.info[key]
    profile = made.info.get("icc_profile")
    fits = like.mode in (*PLAIN, "P", "1") or like.mode.startswith("I;16")
    if profile and not (
        fits and (made.mode in ("L", "LA", "I;16") or icc.colour_space(profile) == "RGB")
    ):
        del made.info["icc_profile"]
    if (exif := made.info.get("exif")) and made.size != like.size:
        block = metadata.resized(exif.removeprefix(b"Exif\0\0"), *made.size)
        made.info["exif"] = b"Exif\0\0" + block
    return made
