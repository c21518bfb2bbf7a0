"""Pillow's pictures to arrays and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

PLAIN = ("L", "LA", "RGB", "RGBA")


def is_picture(image: Any) -> bool:
    return isinstance(image, Image.Image)


def to_array(image: Image.Image) -> np.ndarray:
    """`[H, W]` grey, `[H, W, 2]`, `[H, W, 3]` or `[H, W, 4]`, uint8, or uint16 for 16-bit grey.

    A palette becomes RGB, what is transparent gets an alpha channel, CMYK and other colours become
    RGB as Pillow does.

    Raises:
      ValueError: floating point or 32-bit pixels, which have no range that the network could take
        them from.
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
    """The inverse of `to_array`, with the colour profile and EXIF of `like`."""
    made = Image.fromarray(pixels)
    for key in ("icc_profile", "exif", "dpi"):
        if key in like.info and not (
            key == "icc_profile" and like.mode not in (*PLAIN, "P", "I;16")
        ):
            made.info[key] = like.info[key]
    return made
