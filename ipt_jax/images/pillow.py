"""Conversion between Pillow images and arrays, for callers who pass a Pillow image."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

PLAIN = ("L", "LA", "RGB", "RGBA")


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
    """Converts an array back to a Pillow image with the profile, EXIF and resolution of `like`."""
    made = Image.fromarray(pixels)
    for key in ("icc_profile", "exif", "dpi"):
        if key in like.info and not (
            key == "icc_profile" and like.mode not in (*PLAIN, "P", "I;16")
        ):
            made.info[key] = like.info[key]
    return made
