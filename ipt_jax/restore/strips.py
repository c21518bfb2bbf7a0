"""Restores images of any size in bounded memory, one strip of finished rows at a time.

`images.restore_pictures` holds complete images as float32 and fills its batches from several
images. Here only one row of tiles is held. For the protocol "blend" the numbers are the same bit
for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ipt_jax.restore.batches import Tile, run_batches
from ipt_jax.restore.ensemble import EIGHT, PLAIN, Transform, transformed, undone
from ipt_jax.restore.images import padded
from ipt_jax.restore.network import Apply
from ipt_jax.restore.tiling import OVERLAP, blend_weights, check_overlap, offsets

# `read(first, last)` gives the rows first..last - 1 of an image, `[last - first, W, 3]`, uint8 or
# float in 0..255. The rows are read from top to bottom.
Read = Callable[[int, int], np.ndarray]


class Rows:
    """The strips of one task as the `Read` of the next task in a chain.

    Args:
      strips: strips `[rows, W, 3]` from top to bottom.
    """

    def __init__(self, strips: Iterator[np.ndarray]):
        self._strips, self._first = strips, 0
        self._held: list[np.ndarray] = []

    def __call__(self, first: int, last: int) -> np.ndarray:
        """Returns rows first..last - 1; `first` must not decrease from call to call."""
        while self._first + sum(map(len, self._held)) < last:
            self._held.append(next(self._strips))
        while self._first + len(self._held[0]) <= first:
            self._first += len(self._held.pop(0))
        return np.concatenate(self._held)[first - self._first : last - self._first]


class _Place(NamedTuple):
    """Where the output of a tile belongs: the row and column in the grid of tiles."""

    row: int
    column: int
    how: Transform


def restore_strips(
    apply: Apply,
    read: Read,
    height: int,
    width: int,
    *,
    scale: int,
    tile: int = 48,
    overlap: int = OVERLAP,
    batch: int = 16,
    ensemble: bool = False,
    done: Callable[[int], Any] = lambda tiles: None,
) -> Iterator[np.ndarray]:
    """Restores an image with blended tiles, strip by strip.

    Args:
      apply: `float32 [batch, tile, tile, 3] -> [batch, tile * scale, tile * scale, 3]`, 0..255.
      read: gives the rows of the image.
      height: height of the image in pixels.
      width: width of the image in pixels.
      scale: scale of the task.
      tile: side of the network's input in pixels.
      overlap: minimum number of lq pixels that neighbouring tiles share; less than `tile`.
      batch: tiles per call.
      ensemble: whether the mean over the 8 flips and transpositions of each tile is taken. Each
        tile is turned rather than the image, because a turned image would need all of its rows.
      done: called with the number of tiles that were finished since the last call.

    Yields:
      float32 `[rows, width * scale, 3]` from top to bottom, `height * scale` rows in all, neither
      clipped nor rounded.

    Raises:
      ValueError: the overlap is not in 0..tile - 1.
    """
    check_overlap(overlap, tile)
    tops, lefts = offsets(height, tile, overlap), offsets(width, tile, overlap)
    down, down_sum = _weights(tops, tile, scale)
    across, across_sum = _weights(lefts, tile, scale)
    # The weighted sum over the rows from the top of the current row of tiles on.
    total = np.zeros((tile * scale, max(width, tile) * scale, 3), np.float32)
    transforms = EIGHT if ensemble else PLAIN

    def cut() -> Iterator[Tile[_Place]]:
        for i, y in enumerate(tops):
            strip = padded(read(y, min(y + tile, height)), tile)
            for j, x in enumerate(lefts):
                for how in transforms:
                    yield Tile(transformed(strip[:, x : x + tile], how), _Place(i, j, how))

    def finished(row: int) -> np.ndarray:
        """Takes the rows that no further tile reaches off the top of `total`."""
        first = tops[row] * scale
        last = tops[row + 1] * scale if row + 1 < len(tops) else height * scale
        strip = total[: last - first] / np.outer(down_sum[first:last], across_sum)[..., None]
        kept = len(total) - len(strip)
        total[:kept] = total[len(strip) :].copy()
        total[kept:] = 0
        return strip[:, : width * scale]

    for outputs in run_batches(apply, cut(), batch=batch, tile=tile):
        done(len(outputs))
        for (row, column, how), out in outputs:
            x = lefts[column] * scale
            weight = np.outer(down[row], across[column])[..., None]
            total[:, x : x + tile * scale] += undone(out, how) * (
                weight / np.float32(len(transforms))
            )
            if column == len(lefts) - 1 and how == transforms[-1]:
                yield finished(row)


def _weights(starts: list[int], tile: int, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns each tile's weights along an axis, `[tiles, tile * scale]`, and their sum."""
    weights = np.stack(blend_weights([start * scale for start in starts], tile * scale)).astype(
        np.float32
    )
    total = np.zeros((starts[-1] + tile) * scale, np.float32)
    for start, weight in zip(starts, weights, strict=True):
        total[start * scale :][: len(weight)] += weight
    return weights, total
