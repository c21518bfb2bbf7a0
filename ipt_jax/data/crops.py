"""Random crops: from an image or a pair to (lq, hq)."""

from __future__ import annotations

import cv2
import numpy as np

from ipt_jax.tasks import Task

# Pixels a side, of a picture that is enlarged
LONGEST = 32_768


def empty_pair(task: Task, rows: int, tile: int) -> dict[str, np.ndarray]:
    """Room for a task's rows of a batch."""
    side = tile * task.scale
    dtype = np.uint8 if task.degrade.rounded else np.float32
    return {
        "lq": np.empty((rows, tile, tile, 3), dtype),
        "hq": np.empty((rows, side, side, 3), np.uint8),
    }


def make_pair(
    picture: np.ndarray, task: Task, tile: int, rng: np.random.Generator, flips: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """A random (lq, hq) pair: what a crop of the whole degraded picture would be, without degrading
    the whole.

    Args:
      picture: uint8 `[H, W, 3]`; one smaller than the crop is enlarged to hold it.
      task: scale and degradation.
      tile: side of lq; hq's is `tile * scale`.
      rng: decides the place, the flips and the degradation.
      flips: flip either axis and transpose, each at random.
    """
    scale, margin, grid = task.scale, task.degrade.margin, getattr(task.degrade, "grid", 1)
    picture = at_least(picture, tile * scale)
    # Of the whole lq
    height, width = picture.shape[0] // scale, picture.shape[1] // scale
    spots, cuts = [], []
    for size in (height, width):
        start = int(rng.integers(size - tile + 1))
        low, high = (
            max(0, start - margin) // grid * grid,
            min(size, -(-(start + tile + margin) // grid) * grid),
        )
        spots.append(slice(low * scale, high * scale))
        cuts.append((start - low, high - low))
    region = picture[spots[0], spots[1]]
    turn = int(rng.integers(8)) if flips else 0
    # The grid is that of the picture as it is stored
    if turn and grid > 1:
        (top, _), (left, _) = cuts
        lq = task.degrade(np.ascontiguousarray(region), rng)[top : top + tile, left : left + tile]
        hq = region[top * scale : (top + tile) * scale, left * scale : (left + tile) * scale]
        return turned(lq, turn), turned(hq, turn)
    if flips:
        if turn & 1:
            region, cuts[0] = region[::-1], (cuts[0][1] - cuts[0][0] - tile, cuts[0][1])
        if turn & 2:
            region, cuts[1] = region[:, ::-1], (cuts[1][1] - cuts[1][0] - tile, cuts[1][1])
        if turn & 4:
            region, cuts = region.transpose(1, 0, 2), cuts[::-1]
        region = np.ascontiguousarray(region)
    lq = task.degrade(region, rng)
    (top, _), (left, _) = cuts
    hq = region[top * scale : (top + tile) * scale, left * scale : (left + tile) * scale]
    return lq[top : top + tile, left : left + tile], hq


def turned(image: np.ndarray, turn: int) -> np.ndarray:
    """One of the eight flips and transpositions."""
    image = image[::-1] if turn & 1 else image
    image = image[:, ::-1] if turn & 2 else image
    return image.transpose(1, 0, 2) if turn & 4 else image


def cut_pair(
    pair: tuple[np.ndarray, np.ndarray],
    task: Task,
    tile: int,
    rng: np.random.Generator,
    flips: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """A random (lq, hq) crop of a pair of pictures (sources.Pairs); one smaller than the crop is
    mirrored to hold it.
    """
    lq, hq = pair
    scale = task.scale
    if min(lq.shape[:2]) < tile:
        missing = [max(0, tile - size) for size in lq.shape[:2]]
        lq = np.pad(lq, [*((0, n) for n in missing), (0, 0)], mode="symmetric")
        hq = np.pad(hq, [*((0, n * scale) for n in missing), (0, 0)], mode="symmetric")
    top, left = (int(rng.integers(size - tile + 1)) for size in lq.shape[:2])
    turn = int(rng.integers(8)) if flips else 0
    lq = lq[top : top + tile, left : left + tile]
    hq = hq[top * scale : (top + tile) * scale, left * scale : (left + tile) * scale]
    return turned(lq, turn), turned(hq, turn)


def at_least(picture: np.ndarray, side: int) -> np.ndarray:
    """The picture, enlarged (bicubic) if either side is shorter than `side`."""
    height, width = picture.shape[:2]
    if min(height, width) >= side:
        return picture
    factor = side / min(height, width)
    size = (max(side, round(width * factor)), max(side, round(height * factor)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
