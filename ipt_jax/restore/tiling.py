"""How a picture of any size is cut into the network's tiles and put together again.

A protocol makes a canvas for a picture: the corners of the tiles that it wants, and a place for
what comes back. `blend` is this project's: the fewest tiles that overlap enough, weighted smoothly.
The other three are the published ways of inferring whole pictures with IPT; all three are one
procedure with two numbers, stride and margin.
"""

from __future__ import annotations

import math
from typing import Protocol, TypedDict

import numpy as np

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
    """A picture under restoration.

    Attributes:
      corners: (row, column) of each tile wanted, in pixels of the input.
    """

    corners: list[Corner]

    def add(self, k: int, out: np.ndarray) -> None:
        """Takes the network's output for tile `k`: float32 `[tile * scale, tile * scale, 3]`."""

    def picture(self) -> np.ndarray:
        """The whole, float32 `[height * scale, width * scale, 3]`, once every tile was added."""


def stitcher(
    protocol: str, height: int, width: int, *, tile: int, scale: int, overlap: int = 12
) -> Stitcher:
    """The canvas of a picture that is at least as large as a tile.

    Args:
      protocol: one of `PROTOCOLS`.
      height, width: of the input, at least `tile`.
      tile: side of the network's input.
      scale: of the task.
      overlap: of "blend" only: least number of input pixels that neighbouring tiles share.

    Raises:
      ValueError: an unknown protocol, or an overlap that is not in 0..tile - 1.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; known: {', '.join(PROTOCOLS)}")
    if protocol == "blend":
        if not 0 <= overlap < tile:
            raise ValueError(
                f"overlap={overlap}: tiles of {tile} pixels can overlap by 0 to {tile - 1}"
            )
        return Blend(height, width, tile, overlap, scale)
    # A quarter of the tile in the PyTorch code; "overlapping by 10" in the paper, by 12 in the
    # MindSpore code.
    stride, margin = {
        "official": (tile // 4, tile // 4),
        "paper": (tile - 10, 5),
        "mindspore": (tile - 12, 6),
    }[protocol]
    return Chop(height, width, tile, stride, margin, scale)


def offsets(size: int, tile: int, overlap: int) -> list[int]:
    """Starts of the fewest tiles that cover `size` pixels and overlap by at least `overlap`, evenly
    spread.
    """
    if size <= tile:
        return [0]
    count = -(-(size - tile) // (tile - overlap)) + 1
    return [round(i * (size - tile) / (count - 1)) for i in range(count)]


def blend_weights(starts: list[int], tile: int) -> list[np.ndarray]:
    """For each tile of a row its weights `[tile]`: 1 in the middle, a smooth ramp over what it
    shares.

    The weights of all tiles over any pixel add to a positive number, by which the sum is divided.
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
    """Tiles spread evenly, each faded out over what it shares with its neighbours: no seams."""

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
        i, j = divmod(k, len(self._columns))
        y, x = self._rows[i] * self._scale, self._columns[j] * self._scale
        weight = np.outer(self._down[i], self._across[j])[..., None]
        self._total[y : y + len(out), x : x + len(out)] += out * weight

    def picture(self) -> np.ndarray:
        sums = []
        for size, starts, weights in zip(
            self._total.shape, (self._rows, self._columns), (self._down, self._across)
        ):
            whole = np.zeros(size, np.float32)
            for start, weight in zip(starts, weights, strict=True):
                whole[start * self._scale :][: len(weight)] += weight
            sums.append(whole)
        return self._total / np.outer(*sums)[..., None]


class _Strip:
    """Tiles in a row, put together along it: means of what they keep, and the two ends from the
    outer tiles.
    """

    def __init__(self, size: int, tile: int, margin: int, axis: int):
        self._margin, self._axis, self._tile = margin, axis, tile
        self._size = size
        self._sum = np.zeros((tile, size, 3) if axis else (size, tile, 3), np.float32)
        self._count = np.zeros((1, size, 1) if axis else (size, 1, 1), np.float32)

    def _at(self, first: int, last: int) -> tuple[slice, ...]:
        return (slice(None), slice(first, last)) if self._axis else (slice(first, last),)

    def add(self, start: int, out: np.ndarray) -> None:
        first = 0 if start == 0 else self._margin
        last = self._tile if start + self._tile == self._size else self._tile - self._margin
        # The ends belong to the outer tiles alone: no other tile's kept part reaches them.
        self._sum[self._at(start + first, start + last)] += out[self._at(first, last)]
        self._count[self._at(start + first, start + last)] += 1

    def result(self) -> np.ndarray:
        return self._sum / self._count


class Chop:
    """The published procedure: tiles every `stride` pixels, each without its outer `margin`,
    averaged.

    Regular tiles stop before the last rows and columns where the size is not a multiple; a strip of
    tiles along each of those two edges fills in, meeting the rest in the middle of the overlap. The
    first rows and columns are put together along the edge only, so that the outermost pixels exist
    at all.
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
        wanted = {(y, x) for y in (*rows, self._last[0]) for x in columns} | {
            (y, self._last[1]) for y in rows
        }
        self.corners = sorted(wanted | {self._last})
        strip = lambda size, axis: _Strip(size * s, self._tile, self._margin, axis)  # noqa: E731
        self._top, self._bottom = strip(regular_width, 1), strip(regular_width, 1)
        self._left, self._right = strip(regular_height, 0), strip(regular_height, 0)
        self._corner = np.zeros((self._tile, self._tile, 3), np.float32)
        self._sum = np.zeros((regular_height * s, regular_width * s, 3), np.float32)
        inner = [
            self._count(starts, size * s)
            for starts, size in ((rows, regular_height), (columns, regular_width))
        ]
        self._tiles_over = np.outer(*inner)[..., None]

    def _count(self, starts: range, size: int) -> np.ndarray:
        count = np.zeros(size, np.float32)
        for start in starts:
            count[
                start * self._scale + self._margin : start * self._scale + self._tile - self._margin
            ] += 1
        return count

    def add(self, k: int, out: np.ndarray) -> None:
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

    def picture(self) -> np.ndarray:
        q, t = self._margin, self._tile
        main = np.empty_like(self._sum)
        main[:t] = self._top.result()
        main[:, :t] = self._left.result()
        inner = (slice(q, len(main) - q), slice(q, main.shape[1] - q))
        main[inner] = self._sum[inner] / self._tiles_over[inner]
        main = self._joined(main, self._bottom.result(), 0)
        right = self._joined(self._right.result(), self._corner, 0)
        whole = self._joined(main, right, 1)
        assert whole.shape[:2] == self._size
        return whole

    def _joined(self, main: np.ndarray, end: np.ndarray, axis: int) -> np.ndarray:
        """`end` over the last rows (or columns) of `main`, from the middle of what they share
        on.
        """
        shared = (self._tile - self._rest[axis] * self._scale) / 2
        keep = main.shape[axis] - math.floor(shared)
        parts = (
            main.take(range(keep), axis),
            end.take(range(math.ceil(shared), end.shape[axis]), axis),
        )
        return np.concatenate(parts, axis)
