"""Sheets: several images with labels on one white page, and the encoding of such a page as a file.

Three commands write sheets: validation (`contact_sheet`), `ipt data preview` and `ipt restore
--compare`. All of them are drawn on a `Page` and written by `save_png`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Pixels: height of the text, and of a line of labels with its white space.
TEXT = 12
LINE = 22


class Page:
    """A white page, uint8 `[height, width, 3]`, on which images and labels are placed.

    Positions are in pixels from the upper left corner of the page. Whatever lies beyond an edge
    is cut off.
    """

    def __init__(self, height: int, width: int):
        self._page = Image.new("RGB", (width, height), "white")
        self._draw = ImageDraw.Draw(self._page)
        self._font = ImageFont.load_default(TEXT)

    def place_image(self, image: np.ndarray, top: int, left: int) -> None:
        """Places a uint8 RGB image `[h, w, 3]`, pixel for pixel."""
        self._page.paste(Image.fromarray(image), (left, top))

    def write_label(self, text: str, top: int, left: int) -> None:
        """Writes one line of black text below `top`."""
        self._draw.text((left, top), text, "black", self._font)

    def pixels(self) -> np.ndarray:
        """Returns the page as uint8 RGB `[height, width, 3]`."""
        return np.asarray(self._page)


def contact_sheet(
    rows: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]], side: int = 240
) -> np.ndarray:
    """Draws a contact sheet with one row per task: clean, degraded and restored side by side.

    Each cell shows the same central cut of its image at one image pixel per sheet pixel.

    Args:
      rows: (label, clean, degraded, restored) for each row; the images are uint8 `[H, W, 3]`.
      side: side of a cell in pixels.

    Returns:
      uint8 RGB `[rows * (side + 22), 3 * side + 16, 3]`.
    """
    gap = 8
    page = Page(len(rows) * (LINE + side), 3 * side + 2 * gap)
    for row, (label, *images) in enumerate(rows):
        height, width = images[0].shape[:2]
        y, x = max(0, (height - side) // 2), max(0, (width - side) // 2)
        top = row * (LINE + side)
        titles = (f"{label}: clean", "degraded", "restored")
        for column, (title, image) in enumerate(zip(titles, images, strict=True)):
            left = column * (side + gap)
            page.write_label(title, top + 4, left + 2)
            page.place_image(image[y : y + side, x : x + side], top + LINE, left)
    return page.pixels()


def encode_image(image: np.ndarray, suffix: str = ".png", settings: Sequence[int] = ()) -> bytes:
    """Encodes an image in memory.

    Args:
      image: uint8 RGB `[H, W, 3]`.
      suffix: selects the format, such as ".png" or ".jpg".
      settings: OpenCV's pairs of IMWRITE flag and value.

    Raises:
      ValueError: OpenCV cannot write the format, or not this image.
    """
    try:
        done, data = cv2.imencode(suffix, np.ascontiguousarray(image[..., ::-1]), list(settings))
    except cv2.error as error:
        raise ValueError(f"no image can be written as {suffix!r}: use .png") from error
    if not done:
        raise ValueError(f"an image of shape {image.shape} cannot be encoded as {suffix}")
    return data.tobytes()


def save_png(path: Any, image: np.ndarray) -> None:
    """Writes a uint8 RGB image `[H, W, 3]` as a PNG to a local or remote (`epath`) path."""
    path.write_bytes(encode_image(image))
