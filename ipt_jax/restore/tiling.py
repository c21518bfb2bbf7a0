"""How an image of any size is cut into the network's tiles and stitched together again.

A protocol makes a stitcher for an image: the corners of the tiles that it needs, and the buffers in
which it combines their outputs. `blend` is this project's protocol: the fewest tiles with enough
overlap, and smooth weights. The other three are published procedures for IPT. They are one
procedure with two parameters, stride and margin.
"""

from __future__ import annotations

import math
from typing import Protocol, TypedDict

import numpy as np

# (row, column) of a tile's upper left pixel in the input.
Corner = tuple[int, int]

PROTOCOLS = ("blend", "paper", "official", "mindspore")
# The default minimum number of input pixels that neighbouring tiles of "blend" share.
OVERLAP = 12


class Tiling(TypedDict):
    """How images are cut into tiles: keyword arguments of `Restorer.restore` and its relatives.

    Attributes:
      protocol: one of `PROTOCOLS`.
      overlap: for "blend", the minimum number of input pixels that neighbouring tiles share.
      ensemble: whether the mean over the 8 flips and transpositions is taken.
    """

    protocol: str
    overlap: int
    ensemble: bool


class Stitcher(Protocol):
    """Combines the outputs for the tiles of one image.

    Attributes:
      corners: the corner of each tile that must be restored.
    """

    corners: list[Corner]

    def add(self, k: int, out: np.ndarray) -> None:
        """Adds the output for tile `k`, float32 `[tile * scale, tile * scale, 3]`."""

    def stitched(self) -> np.ndarray:
        """Returns float32 `[height * scale, width * scale, 3]` after every tile was added."""


def make_stitcher(
    protocol: str, height: int, width: int, *, tile: int, scale: int, overlap: int = OVERLAP
) -> Stitcher:
    """Returns the stitcher of a protocol for an image that is at least as large as a tile.

    Args:
      protocol: one of `PROTOCOLS`.
      height: height of the input in pixels, at least `tile`.
      width: width of the input in pixels, at least `tile`.
      tile: side of the network's input in pixels.
      scale: scale of the task.
      overlap: for "blend", the minimum number of input pixels that neighbouring tiles share.

    Raises:
      ValueError: the protocol is unknown, or the overlap is not in 0..tile - 1.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; known: {', '.join(PROTOCOLS)}")
    if protocol == "blend":
        check_overlap(overlap, tile)
        return Blend(height, width, tile, overlap, scale)
    # The authors' PyTorch code uses a quarter of the tile as stride and margin. Tiles overlap by 10
    # pixels in the paper and by 12 in the MindSpore code.
    stride, margin = {
        "official": (tile // 4, tile // 4),
        "paper": (tile - 10, 5),
        "mindspore": (tile - 12, 6),
    }[protocol]
    return Chop(height, width, tile, stride, margin, scale)


def check_overlap(overlap: int, tile: int) -> None:
    """Raises ValueError unless the overlap is in 0..tile - 1."""
    if not 0 <= overlap < tile:
        raise ValueError(
            f"overlap={overlap}: tiles of {tile} pixels can overlap by 0 to {tile - 1} pixels"
        )


def offsets(size: int, tile: int, overlap: int) -> list[int]:
    """Returns evenly spread starts of the fewest tiles that cover `size` pixels.

    Neighbouring tiles share at least `overlap` pixels.
    """
    if size <= tile:
        return [0]
    count = -(-(size - tile) // (tile - overlap)) + 1
    return [round(i * (size - tile) / (count - 1)) for i in range(count)]


def blend_weights(starts: list[int], tile: int) -> list[np.ndarray]:
    """Returns the weights `[tile]` of each tile along an axis.

    A weight is 1 in the middle of a tile and falls as sin^2 over the pixels that the tile shares
    with a neighbour. At every pixel the weights of all tiles add to a positive number, by which the
    weighted sum is divided.

    Args:
      starts: first pixel of each tile.
      tile: side of a tile in pixels.
    """
    centres = (np.arange(tile) + 0.5) / tile
    weights = []
    for i, start in enumerate(starts):
        before = (starts[i - 1] + tile - start) / tile if i else 0.0
        after = (start + tile - starts[i + 1]) / tile if i + 1 < len(starts) else 0.0
        ramp = np.ones(tile)
        for share, distance in ((before, centres), (after, 1 - centres)):
            if share > 0:
                ramp *= np.sin(0.5 * np.pi * np.clip(distance / share, 0, 1)) ** 2
        weights.append(ramp)
    return weights


class Blend:
    """Evenly spread tiles, each faded out over the pixels that it shares with its neighbours."""

    def __init__(self, height: int, width: int, tile: int, overlap: int, scale: int):
        self._rows, self._columns = offsets(height, tile, overlap), offsets(width, tile, overlap)
        self.corners = [(y, x) for y in self._rows for x in self._columns]
        self._scale = scale
        self._down, self._across = (
            np.stack(blend_weights([start * scale for start in starts], tile * scale)).astype(
                np.float32
            )
            for starts in (self._rows, self._columns)
        )
        self._total = np.zeros((height * scale, width * scale, 3), np.float32)

    def add(self, k: int, out: np.ndarray) -> None:
        """Adds the weighted output for tile `k`."""
        i, j = divmod(k, len(self._columns))
        y, x = self._rows[i] * self._scale, self._columns[j] * self._scale
        weight = np.outer(self._down[i], self._across[j])[..., None]
        self._total[y : y + len(out), x : x + len(out)] += out * weight

    def stitched(self) -> np.ndarray:
        """Returns the weighted mean of all outputs."""
        sums = []
        for size, starts, weights in zip(
            self._total.shape, (self._rows, self._columns), (self._down, self._across)
        ):
            total = np.zeros(size, np.float32)
            for start, weight in zip(starts, weights, strict=True):
                total[start * self._scale :][: len(weight)] += weight
            sums.append(total)
        return self._total / np.outer(*sums)[..., None]


class _EdgeStrip:
    """A line of tiles along one edge: the mean of the outputs without their margins.

    The two ends of the line come from the outermost tiles, margin included.

    Args:
      size: length of the line in pixels of the output.
      tile: side of a tile in pixels of the output.
      margin: pixels of the output that are dropped at both ends of a tile.
      axis: 0 for a column of tiles, 1 for a row of tiles.
    """

    def __init__(self, size: int, tile: int, margin: int, axis: int):
        self._margin, self._axis, self._tile = margin, axis, tile
        self._size = size
        self._sum = np.zeros((tile, size, 3) if axis else (size, tile, 3), np.float32)
        self._count = np.zeros((1, size, 1) if axis else (size, 1, 1), np.float32)

    def _at(self, first: int, last: int) -> tuple[slice, ...]:
        return (slice(None), slice(first, last)) if self._axis else (slice(first, last),)

    def add(self, start: int, out: np.ndarray) -> None:
        """Adds the output of the tile that starts at this pixel of the line."""
        # No other tile reaches the ends, because its margin there is dropped.
        first = 0 if start == 0 else self._margin
        last = self._tile if start + self._tile == self._size else self._tile - self._margin
        self._sum[self._at(start + first, start + last)] += out[self._at(first, last)]
        self._count[self._at(start + first, start + last)] += 1

    def mean(self) -> np.ndarray:
        """Returns float32 `[tile, size, 3]` for a row of tiles, `[size, tile, 3]` for a column."""
        return self._sum / self._count


class Chop:
    """The published procedure: a tile every `stride` pixels, cut by `margin` pixels, averaged.

    Where the size is not a multiple of the stride, the regular tiles stop before the last rows and
    columns. A line of tiles along each of these two edges fills the gap and meets the regular part
    in the middle of the overlap. The first rows and columns lie within the margin of the regular
    tiles, so they come from lines of tiles along the first two edges.
    """

    def __init__(self, height: int, width: int, tile: int, stride: int, margin: int, scale: int):
        s = self._scale = scale
        self._tile = tile * s
        self._size = (height * s, width * s)
        self._rest = ((height - tile) % stride, (width - tile) % stride)
        self._last = (height - tile, width - tile)
        self._margin = margin * s
        regular_height, regular_width = height - self._rest[0], width - self._rest[1]
        rows, columns = (
            range(0, regular_height - tile + 1, stride),
            range(0, regular_width - tile + 1, stride),
        )
        self._rows, self._columns = set(rows), set(columns)
        needed = {(y, x) for y in (*rows, self._last[0]) for x in columns} | {
            (y, self._last[1]) for y in rows
        }
        self.corners = sorted(needed | {self._last})
        self._top, self._bottom = (
            _EdgeStrip(regular_width * s, self._tile, self._margin, 1) for _ in range(2)
        )
        self._left, self._right = (
            _EdgeStrip(regular_height * s, self._tile, self._margin, 0) for _ in range(2)
        )
        self._corner = np.zeros((self._tile, self._tile, 3), np.float32)
        self._sum = np.zeros((regular_height * s, regular_width * s, 3), np.float32)
        tiles_over = [
            self._count(starts, size * s)
            for starts, size in ((rows, regular_height), (columns, regular_width))
        ]
        self._tiles_over = np.outer(*tiles_over)[..., None]

    def _count(self, starts: range, size: int) -> np.ndarray:
        """Returns the number of tiles that cover each pixel of an axis, float32 `[size]`."""
        count = np.zeros(size, np.float32)
        for start in starts:
            first, last = start * self._scale, start * self._scale + self._tile
            count[first + self._margin : last - self._margin] += 1
        return count

    def add(self, k: int, out: np.ndarray) -> None:
        """Adds the output for tile `k` to the regular part and to the edges on which it lies."""
        y, x = self.corners[k]
        s, q, t = self._scale, self._margin, self._tile
        if x in self._columns:
            if y in self._rows:
                self._sum[y * s + q : y * s + t - q, x * s + q : x * s + t - q] += out[
                    q : t - q, q : t - q
                ]
            if y == 0:
                self._top.add(x * s, out)
            if y == self._last[0]:
                self._bottom.add(x * s, out)
        if y in self._rows:
            if x == 0:
                self._left.add(y * s, out)
            if x == self._last[1]:
                self._right.add(y * s, out)
        if (y, x) == self._last:
            self._corner[:] = out

    def stitched(self) -> np.ndarray:
        """Returns the regular part, joined with the last rows and the last columns."""
        q, t = self._margin, self._tile
        main = np.empty_like(self._sum)
        main[:t] = self._top.mean()
        main[:, :t] = self._left.mean()
        inner = (slice(q, len(main) - q), slice(q, main.shape[1] - q))
        main[inner] = self._sum[inner] / self._tiles_over[inner]
        main = self._joined(main, self._bottom.mean(), 0)
        right = self._joined(self._right.mean(), self._corner, 0)
        image = self._joined(main, right, 1)
        assert image.shape[:2] == self._size
        return image

    def _joined(self, main: np.ndarray, end: np.ndarray, axis: int) -> np.ndarray:
        """Returns `main` up to the middle of its overlap with `end`, followed by `end`."""
        shared = (self._tile - self._rest[axis] * self._scale) / 2
        keep = main.shape[axis] - math.floor(shared)
        parts = (
            main.take(range(keep), axis),
            end.take(range(math.ceil(shared), end.shape[axis]), axis),
        )
        return np.concatenate(parts, axis)
