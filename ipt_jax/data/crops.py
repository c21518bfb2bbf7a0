"""Random crops of training images: from a clean image, or from an image pair, to (lq, hq).

`make_pair` cuts a region out of a clean image and degrades only that region. Its result equals the
crop of the entire degraded image, because the region has the degradation's margin on every side.
`cut_pair` cuts both images of a pair whose degraded image exists already.

All randomness comes from the generator that is passed in, in a fixed order: row, column, flip and
transposition, then whatever the degradation draws. Changing that order changes the batches (see
`pipeline.DATA_VERSION`).
"""

from __future__ import annotations

import cv2
import numpy as np

from ipt_jax.data.stages import Stage, untimed
from ipt_jax.tasks import Task

# The longest side in pixels that enlarging an image may produce.
LONGEST = 32_768


def empty_pair(task: Task, rows: int, tile: int) -> dict[str, np.ndarray]:
    """Allocates a task's part of a batch.

    Returns:
      `{"lq": [rows, tile, tile, 3], "hq": [rows, tile * scale, tile * scale, 3]}`; hq is uint8, and
      lq is uint8 if the degradation rounds, otherwise float32.
    """
    side = tile * task.scale
    dtype = np.uint8 if task.degrade.rounded else np.float32
    return {
        "lq": np.empty((rows, tile, tile, 3), dtype),
        "hq": np.empty((rows, side, side, 3), np.uint8),
    }


def make_pair(
    picture: np.ndarray,
    task: Task,
    tile: int,
    rng: np.random.Generator,
    flips: bool = False,
    stage: Stage = untimed,
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts and degrades a random crop of a clean image.

    The pair equals the crop of the entire degraded image, although only a region is degraded.

    Args:
      picture: uint8 `[H, W, 3]`; an image that is smaller than the crop is enlarged to hold it.
      task: gives the scale and the degradation.
      tile: side of lq in pixels; the side of hq is `tile * scale`.
      rng: decides on the position, the flips and the degradation.
      flips: whether to flip either axis and to transpose, each at random.
      stage: measures the stages "crop" and "degrade" (see `data.stages`).

    Returns:
      lq `[tile, tile, 3]`, uint8 or float32 in 0..255, and hq uint8 `[tile * scale, tile * scale,
      3]`.
    """
    scale, margin, grid = task.scale, task.degrade.margin, getattr(task.degrade, "grid", 1)
    with stage("crop"):
        picture = at_least(picture, tile * scale)
        # Slices of the image, and the place of the crop within the region, for either axis.
        spots, cuts = [], []
        for side in picture.shape[:2]:
            # Side of the entire lq image.
            size = side // scale
            start = int(rng.integers(size - tile + 1))
            low = max(0, start - margin) // grid * grid
            high = min(size, -(-(start + tile + margin) // grid) * grid)
            spots.append(slice(low * scale, high * scale))
            cuts.append((start - low, high - low))
        region = picture[spots[0], spots[1]]
        turn = int(rng.integers(8)) if flips else 0
        # The grid of JPEG blocks belongs to the image as it is stored: then turn after degrading.
        late = turn if grid > 1 else 0
        if flips and not late:
            if turn & 1:
                region, cuts[0] = region[::-1], (cuts[0][1] - cuts[0][0] - tile, cuts[0][1])
            if turn & 2:
                region, cuts[1] = region[:, ::-1], (cuts[1][1] - cuts[1][0] - tile, cuts[1][1])
            if turn & 4:
                region, cuts = region.transpose(1, 0, 2), cuts[::-1]
        if flips:
            region = np.ascontiguousarray(region)
    with stage("degrade"):
        lq = task.degrade(region, rng)
    with stage("crop"):
        (top, _), (left, _) = cuts
        lq = lq[top : top + tile, left : left + tile]
        hq = region[top * scale : (top + tile) * scale, left * scale : (left + tile) * scale]
        return turned(lq, late), turned(hq, late)


def turned(image: np.ndarray, turn: int) -> np.ndarray:
    """Returns one of the eight flips and transpositions of an image `[H, W, C]`.

    Bit 0 of `turn` flips rows, bit 1 flips columns, and bit 2 then transposes.
    """
    image = image[::-1] if turn & 1 else image
    image = image[:, ::-1] if turn & 2 else image
    return image.transpose(1, 0, 2) if turn & 4 else image


def cut_pair(
    pair: tuple[np.ndarray, np.ndarray],
    task: Task,
    tile: int,
    rng: np.random.Generator,
    flips: bool = False,
    stage: Stage = untimed,
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the same random crop out of both images of a pair (see `sources.Pairs`).

    Args:
      pair: lq uint8 `[H, W, 3]` and hq uint8 `[H * scale, W * scale, 3]`; a pair that is smaller
        than the crop is mirrored at its right and lower edge to hold it.
      task: gives the scale.
      tile: side of lq in pixels.
      rng: decides on the position and the flips.
      flips: whether to flip either axis and to transpose, each at random.
      stage: measures the stage "crop" (see `data.stages`).

    Returns:
      lq uint8 `[tile, tile, 3]` and hq uint8 `[tile * scale, tile * scale, 3]`.
    """
    scale = task.scale
    with stage("crop"):
        lq, hq = pair
        if min(lq.shape[:2]) < tile:
            missing = [max(0, tile - size) for size in lq.shape[:2]]
            lq = np.pad(lq, [*((0, n) for n in missing), (0, 0)], mode="symmetric")
            hq = np.pad(hq, [*((0, n * scale) for n in missing), (0, 0)], mode="symmetric")
        top, left = (int(rng.integers(size - tile + 1)) for size in lq.shape[:2])
        turn = int(rng.integers(8)) if flips else 0
        lq = lq[top : top + tile, left : left + tile]
        hq = hq[top * scale : (top + tile) * scale, left * scale : (left + tile) * scale]
        return turned(lq, turn), turned(hq, turn)


def why_too_narrow(height: int, width: int, side: int) -> str:
    """Returns why an image cannot be enlarged to hold a crop of `side` pixels; "" if it can.

    Training and `ipt data check` call images unreadable for this reason.
    """
    if max(height, width) * side <= LONGEST * min(height, width):
        return ""
    return f"{width}x{height} pixels are too narrow to be enlarged to hold a crop of {side}x{side}"


def at_least(picture: np.ndarray, side: int) -> np.ndarray:
    """Enlarges an image `[H, W, 3]` by bicubic interpolation if either side is below `side`."""
    height, width = picture.shape[:2]
    if min(height, width) >= side:
        return picture
    factor = side / min(height, width)
    size = (max(side, round(width * factor)), max(side, round(height * factor)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
