"""A sheet of what was restored: a row a picture, the whole, and its place with most detail before
and after.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from ipt_jax.images import channels
from ipt_jax.images.sheet import Page
from ipt_jax.images.write import Form, writing

SIDE, GAP, LINE = 240, 8, 18
# A sheet's most
ROWS = 40


@dataclasses.dataclass
class Crop:
    """A place of a picture, and what is restored there, caught as strips go by.

    Attributes:
      name: of the picture.
      thumbnail: uint8 `[SIDE, SIDE, 3]`, the whole picture with the place marked.
      before: uint8 `[h, w, 3]`, the place in the input.
      top, left, scale: where it is in the input, and how much larger the result is.
    """

    name: str
    thumbnail: np.ndarray
    before: np.ndarray
    top: int
    left: int
    scale: int
    after: np.ndarray = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        height, width = self.before.shape[:2]
        self.after = np.zeros((height * self.scale, width * self.scale, 3), np.uint8)

    def take(self, row: int, strip: np.ndarray) -> None:
        """A finished strip, `[rows, W, C]` from this row of the result on."""
        first = self.top * self.scale
        low, high = max(first, row), min(first + len(self.after), row + len(strip))
        if low < high:
            left = self.left * self.scale
            part = strip[low - row : high - row, left : left + self.after.shape[1]]
            self.after[low - first : high - first] = _shown(part)


def choose(name: str, pixels: np.ndarray, scale: int) -> Crop:
    """The place with most detail of a picture `[H, W, C]`, uint8 or uint16."""
    height, width = pixels.shape[:2]
    step = max(1, max(height, width) // (2 * SIDE))
    small = _shown(pixels[::step, ::step])
    side = SIDE // max(scale, 2)
    h, w = min(side, height), min(side, width)
    grey = small.mean(axis=2, dtype=np.float32)
    # Of structure rather than noise
    detail = np.abs(cv2.Laplacian(cv2.GaussianBlur(grey, (0, 0), 1.5), cv2.CV_32F))
    window = (max(1, w // step), max(1, h // step))
    mean = cv2.boxFilter(detail, -1, window, anchor=(0, 0), borderType=cv2.BORDER_REFLECT)
    fits = mean[: max(1, (height - h) // step + 1), : max(1, (width - w) // step + 1)]
    y, x = (int(i) * step for i in np.unravel_index(fits.argmax(), fits.shape))
    y, x = min(y, height - h), min(x, width - w)
    thumbnail = Image.fromarray(small)
    thumbnail.thumbnail((SIDE, SIDE))
    whole = Image.new("RGB", (SIDE, SIDE), "white")
    whole.paste(thumbnail)
    ratio = max(thumbnail.size) / max(height, width)
    box = [x * ratio, y * ratio, (x + w) * ratio - 1, (y + h) * ratio - 1]
    if box[2] > box[0] and box[3] > box[1]:
        ImageDraw.Draw(whole).rectangle(box, outline=(255, 40, 40))
    return Crop(name, np.asarray(whole), _shown(pixels[y : y + h, x : x + w]), y, x, scale)


def _shown(pixels: np.ndarray) -> np.ndarray:
    """uint8 `[h, w, 3]`."""
    return (
        np.clip(channels.colour(pixels) + 0.5, 0, 255).astype(np.uint8)
        if pixels.dtype != np.uint8
        else channels.colour(pixels)
    )


def write(crops: list[Crop], task: str, path: Path) -> None:
    """Writes the sheet as a PNG: before (for super-resolution enlarged, bicubic) and after."""
    width, row = 3 * SIDE + 4 * GAP, SIDE + LINE + GAP
    page = Page(LINE + GAP + row * len(crops), width)
    for column, title in enumerate(("picture", "before", f"after: {task}")):
        page.write_label(title, GAP, GAP + column * (SIDE + GAP))
    for i, crop in enumerate(crops):
        top = LINE + GAP + i * row
        enlarged = Image.fromarray(crop.before).resize(
            crop.after.shape[1::-1], Image.Resampling.BICUBIC
        )
        for column, image in enumerate(
            (Image.fromarray(crop.thumbnail), enlarged, Image.fromarray(crop.after))
        ):
            if column and crop.scale == 1:
                image = image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST)
            page.place_image(np.asarray(image), top, GAP + column * (SIDE + GAP))
        page.write_label(crop.name, top + SIDE + 2, GAP)
    pixels = page.pixels()
    with writing(path, Form("png", *pixels.shape)) as writer:
        writer.write(pixels)
