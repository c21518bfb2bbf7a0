"""Pictures of any size in bounded memory: restored from top to bottom, a strip of finished rows at
a time.

`restore.restore_pictures` holds whole pictures as float32 and fills its batches from many of them;
here only one row of tiles is held. For the protocol "blend" the numbers are the same bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ipt_jax.restore.ensemble import EIGHT, PLAIN, Transform, transformed, undone
from ipt_jax.restore.images import padded
from ipt_jax.restore.network import Apply
from ipt_jax.restore.tiling import blend_weights, offsets

# Rows first..last of a picture, `[last - first, W, 3]`, uint8 or float in 0..255. Asked for from
# top to bottom.
Read = Callable[[int, int], np.ndarray]


class Rows:
    """Strips that come from above, as a `Read`: how a task takes what the task before it makes."""

    def __init__(self, strips: Iterator[np.ndarray]):
        self._strips, self._first = strips, 0
        self._held: list[np.ndarray] = []

    def __call__(self, first: int, last: int) -> np.ndarray:
        while self._first + sum(map(len, self._held)) < last:
            self._held.append(next(self._strips))
        while self._first + len(self._held[0]) <= first:
            self._first += len(self._held.pop(0))
        return np.concatenate(self._held)[first - self._first : last - self._first]


@dataclasses.dataclass(frozen=True)
class _Tile:
    row: int
    column: int
    how: Transform
    pixels: np.ndarray


def restore_strips(
    apply: Apply,
    read: Read,
    height: int,
    width: int,
    *,
    scale: int,
    tile: int = 48,
    overlap: int = 12,
    batch: int = 16,
    ensemble: bool = False,
    done: Callable[[int], Any] = lambda tiles: None,
) -> Iterator[np.ndarray]:
    """Restores a picture by blended tiles, strip by strip.

    Args:
      apply: `float32 [batch, tile, tile, 3] -> [batch, tile * scale, tile * scale, 3]`, 0..255.
      read: gives the picture's rows.
      height, width: of the picture, any.
      scale: of the task.
      tile: side of the network's input.
      overlap: least number of lq pixels that neighbouring tiles share; less than `tile`.
      batch: tiles a call.
      ensemble: the mean over 8 flips and transpositions, of each tile (the whole picture's grid of
        tiles would have to be held eight times to turn the picture itself).
      done: called with the number of tiles that were just finished.

    Yields:
      float32 `[rows, width * scale, 3]` from top to bottom, neither clipped nor rounded; `height *
      scale` rows in all.

    Raises:
      ValueError: an impossible overlap.
    """
    if not 0 <= overlap < tile:
        raise ValueError(
            f"overlap={overlap}: tiles of {tile} pixels can overlap by 0 to {tile - 1}"
        )
    tops, lefts = offsets(height, tile, overlap), offsets(width, tile, overlap)
    down, down_sum = _weights(tops, tile, scale)
    across, across_sum = _weights(lefts, tile, scale)
    # From the row of tiles that is added to on
    total = np.zeros((tile * scale, max(width, tile) * scale, 3), np.float32)
    transforms = EIGHT if ensemble else PLAIN

    def cut() -> Iterator[_Tile]:
        for i, y in enumerate(tops):
            strip = padded(read(y, min(y + tile, height)), tile)
            for j, x in enumerate(lefts):
                for how in transforms:
                    yield _Tile(i, j, how, transformed(strip[:, x : x + tile], how))

    def start(tiles: list[_Tile]) -> tuple[list[_Tile], Any]:
        pixels = np.zeros((batch, tile, tile, 3), np.float32)
        for slot, one in enumerate(tiles):
            pixels[slot] = one.pixels
        return tiles, apply(pixels)

    def collect(tiles: list[_Tile], outs: Any) -> Iterator[np.ndarray]:
        outs = np.asarray(outs, np.float32)
        done(len(tiles))
        for slot, one in enumerate(tiles):
            out = undone(outs[slot], one.how)
            x = lefts[one.column] * scale
            weight = np.outer(down[one.row], across[one.column])[..., None]
            total[:, x : x + tile * scale] += out * (weight / np.float32(len(transforms)))
            if one.column == len(lefts) - 1 and one.how == transforms[-1]:
                yield finished(one.row)

    def finished(row: int) -> np.ndarray:
        """The rows that no further tile reaches, taken off the top of what is held."""
        first = tops[row] * scale
        last = tops[row + 1] * scale if row + 1 < len(tops) else height * scale
        strip = total[: last - first] / np.outer(down_sum[first:last], across_sum)[..., None]
        kept = len(total) - len(strip)
        total[:kept] = total[len(strip) :].copy()
        total[kept:] = 0
        return strip[:, : width * scale]

    running: tuple[list[_Tile], Any] | None = None
    waiting: list[_Tile] = []
    for one in cut():
        waiting.append(one)
        # A call is made before the one before it is read: device and host work at once
        if len(waiting) == batch:
            fresh = start(waiting)
            waiting = []
            if running is not None:
                yield from collect(*running)
            running = fresh
    if waiting:
        fresh = start(waiting)
        if running is not None:
            yield from collect(*running)
        running = fresh
    if running is not None:
        yield from collect(*running)


def _weights(starts: list[int], tile: int, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Each tile's weights along an axis, `[tiles, tile * scale]`, and their sum over the whole
    axis.
    """
    weights = np.stack(blend_weights([start * scale for start in starts], tile * scale)).astype(
        np.float32
    )
    whole = np.zeros((starts[-1] + tile) * scale, np.float32)
    for start, weight in zip(starts, weights, strict=True):
        whole[start * scale :][: len(weight)] += weight
    return weights, whole
