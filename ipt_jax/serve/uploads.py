"""What is uploaded to the page, its results, and the files of both."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ipt_jax.images import channels
from ipt_jax.images.origin import Origin, digest_of
from ipt_jax.images.read import read_image
from ipt_jax.images.write import Form, writing
from ipt_jax.restore.animation import count_frames
from ipt_jax.restore.images import to_uint8
from ipt_jax.restore.restorer import Restorer

# Seconds after which a result is deleted.
KEPT = 3600.0
# Pixels of what the page shows; the result itself is downloaded.
SHOWN = 4_000_000


class Reduced:
    """Reduces an image that comes in rows to about `SHOWN` pixels, which a browser can show.

    Args:
      height: height of the image in pixels.
      width: width of the image in pixels.
    """

    def __init__(self, height: int, width: int):
        self.factor = max(1, math.ceil(math.sqrt(height * width / SHOWN)))
        self._rows: list[np.ndarray] = []
        self._waiting: np.ndarray | None = None

    def add(self, rows: np.ndarray) -> None:
        """Adds the next rows `[rows, W, C]`; the means of whole blocks of pixels are kept."""
        if self._waiting is not None:
            rows = np.concatenate([self._waiting, rows])
        side = self.factor
        height, width = (size // side * side for size in rows.shape[:2])
        self._waiting = rows[height:]
        blocks = rows[:height, :width].reshape(
            height // side, side, width // side, side, rows.shape[2]
        )
        self._rows.append(blocks.mean(axis=(1, 3)))

    def image(self) -> np.ndarray:
        """Returns the reduced image, float `[H / factor, W / factor, C]`."""
        return np.concatenate(self._rows)


def restore_upload(
    model: Restorer,
    source: Path,
    task: str,
    place: Path,
    max_pixels: int,
    progress: Callable[[tuple[int, int]], Any] = lambda done: None,
) -> tuple[tuple[Path, Path], Path, str]:
    """Restores a file.

    Args:
      model: the model.
      source: the file.
      task: name of the task.
      place: the folder for the results.
      max_pixels: a larger image is refused.
      progress: called with (tiles that are done, all tiles).

    Returns:
      Two PNG files of the same size to compare, the input (for super-resolution enlarged, bicubic)
      and the result, both reduced to `SHOWN` pixels at most; the file of the whole result; and a
      summary of the sizes.

    Raises:
      DecodeError: the file is not an image, or it is too large; the message names no file.
    """
    picture = read_image(source, max_pixels)
    scale = model.task(task).scale
    height, width, count = picture.pixels.shape
    after = place / f"{source.stem}_{task}.png"
    form, _ = Form(
        "png",
        height * scale,
        width * scale,
        count,
        8 * picture.pixels.itemsize,
        picture.held,
        origin=Origin(source.name, digest_of(source), (task,)),
    ).fitted()
    pixels = channels.fill_transparent(picture.pixels, model.model.tile)
    done, tiles = 0, model.tiles(height, width, task)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress((done, tiles))

    small = Reduced(height * scale, width * scale)
    with writing(after, form) as writer:
        for rows in model.restore_rows(pixels, task, done=advance):
            writer.write(rows)
            small.add(rows)
    shown = place / "before.png", after
    if small.factor > 1:
        # A result of a telephone's photograph has 50 megapixels and more.
        shown = place / "before.png", place / "after.png"
        as_seen = channels.colour(small.image().astype(picture.pixels.dtype))
        Image.fromarray(to_uint8(as_seen)).save(shown[1], icc_profile=picture.profile)
    seen = Image.fromarray(to_uint8(model.visible_colour(picture.pixels)))
    with Image.open(shown[1]) as result:
        enlarged = seen.resize(result.size, Image.Resampling.BICUBIC)
    enlarged.save(shown[0], icc_profile=picture.profile)
    remarks = list(picture.notes)
    if (frames := count_frames(source)) > 1:
        remarks.append(f"the first of {frames} frames; ipt restore restores all")
    notes = "".join(f" ({remark})" for remark in remarks)
    return shown, after, f"{width}x{height} to {width * scale}x{height * scale}{notes}"


def bytes_in(folder: Path) -> int:
    """Returns the bytes of all files below a folder."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            # A file may be deleted at this moment.
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


def delete_old(folder: Path, age: float, newest: int | None = None) -> None:
    """Deletes what is in a folder and older than `age` seconds, or not among the `newest`."""
    entries = []
    for entry in folder.iterdir() if folder.exists() else ():
        # Another request may delete it at this moment.
        with contextlib.suppress(OSError):
            entries.append((entry.stat().st_mtime, entry))
    entries.sort(reverse=True)
    for number, (changed, entry) in enumerate(entries):
        if changed < time.time() - age or (newest is not None and number >= newest):
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
