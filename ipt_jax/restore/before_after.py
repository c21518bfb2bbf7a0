"""A sheet of restored images: each row shows a thumbnail and the most detailed crop, before and
after.
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
from ipt_jax.restore.images import to_uint8

# In pixels: side of an image on the sheet, gap between images, height of a line of text.
SIDE, GAP, LINE = 240, 8, 18
# Maximum number of rows of a sheet.
ROWS = 40


@dataclasses.dataclass
class Crop:
    """A crop of an image and its result, which is collected from the strips of the result.

    Attributes:
      name: name of the image.
      thumbnail: uint8 `[SIDE, SIDE, 3]`, the image with the crop marked.
      before: uint8 `[h, w, 3]`, the crop of the input.
      top: first row of the crop in the input.
      left: first column of the crop in the input.
      scale: side of the result over side of the input.
      after: uint8 `[h * scale, w * scale, 3]`, the crop of the result.
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

    def add_strip(self, row: int, strip: np.ndarray) -> None:
        """Copies the part of a finished strip that lies in the crop.

        Args:
          row: first row of the strip in the result.
          strip: `[rows, W, C]`, uint8 or uint16.
        """
        first = self.top * self.scale
        low, high = max(first, row), min(first + len(self.after), row + len(strip))
        if low < high:
            left = self.left * self.scale
            part = strip[low - row : high - row, left : left + self.after.shape[1]]
            self.after[low - first : high - first] = to_uint8(channels.colour(part))


def choose_crop(name: str, pixels: np.ndarray, scale: int) -> Crop:
    """Returns the most detailed crop of an image.

    Args:
      name: name of the image.
      pixels: `[H, W, C]`, uint8 or uint16.
      scale: side of the result over side of the input.
    """
    height, width = pixels.shape[:2]
    step = max(1, max(height, width) // (2 * SIDE))
    small = to_uint8(channels.colour(pixels[::step, ::step]))
    side = SIDE // max(scale, 2)
    h, w = min(side, height), min(side, width)
    y, x = (int(i) * step for i in _most_detail(small, (height - h, width - w), (h, w), step))
    y, x = min(y, height - h), min(x, width - w)
    thumbnail = Image.fromarray(np.ascontiguousarray(small))
    thumbnail.thumbnail((SIDE, SIDE))
    framed = Image.new("RGB", (SIDE, SIDE), "white")
    framed.paste(thumbnail)
    ratio = max(thumbnail.size) / max(height, width)
    box = [x * ratio, y * ratio, (x + w) * ratio - 1, (y + h) * ratio - 1]
    if box[2] > box[0] and box[3] > box[1]:
        ImageDraw.Draw(framed).rectangle(box, outline=(255, 40, 40))
    before = to_uint8(channels.colour(pixels[y : y + h, x : x + w]))
    return Crop(name, np.asarray(framed), before, y, x, scale)


def _most_detail(
    small: np.ndarray, last: tuple[int, int], size: tuple[int, int], step: int
) -> tuple[np.intp, ...]:
    """Returns the corner of the window with most detail.

    Args:
      small: uint8 `[h, w, 3]`, every `step`-th pixel of an image.
      last: the last row and column of the image at which a window can start.
      size: height and width of the window in pixels of the image.
      step: pixels of the image per pixel of `small`.
    """
    grey = small.mean(axis=2, dtype=np.float32)
    # The blur removes noise, which would count as detail.
    detail = np.abs(cv2.Laplacian(cv2.GaussianBlur(grey, (0, 0), 1.5), cv2.CV_32F))
    window = (max(1, size[1] // step), max(1, size[0] // step))
    mean = cv2.boxFilter(detail, -1, window, anchor=(0, 0), borderType=cv2.BORDER_REFLECT)
    fits = mean[: max(1, last[0] // step + 1), : max(1, last[1] // step + 1)]
    return np.unravel_index(fits.argmax(), fits.shape)


def write_sheet(crops: list[Crop], task: str, path: Path) -> None:
    """Writes the sheet as a PNG; for super-resolution the input is enlarged (bicubic)."""
    width, row = 3 * SIDE + 4 * GAP, SIDE + LINE + GAP
    page = Page(LINE + GAP + row * len(crops), width)
    for column, title in enumerate(("image", "before", f"after: {task}")):
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
