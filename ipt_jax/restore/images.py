"""Pictures of any size through a network for a fixed tile: cut, batch, put together."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ipt_jax.restore.ensemble import EIGHT, PLAIN, Transform, transformed, undone
from ipt_jax.restore.network import Apply
from ipt_jax.restore.tiling import Stitcher, stitcher


@dataclasses.dataclass
class _Job:
    """A picture under restoration: a canvas for each transform of it, and how many tiles are still
    to come.
    """

    size: tuple[int, int]
    transforms: tuple[Transform, ...]
    canvases: list[Stitcher]
    left: int

    def result(self) -> np.ndarray:
        total = undone(self.canvases[0].picture(), self.transforms[0])
        for how, done in zip(self.transforms[1:], self.canvases[1:], strict=True):
            total = total + undone(done.picture(), how)
        whole = total if len(self.canvases) == 1 else total / np.float32(len(self.canvases))
        return np.ascontiguousarray(whole[: self.size[0], : self.size[1]])


@dataclasses.dataclass(frozen=True)
class _Tile:
    job: _Job
    stitcher: Stitcher
    k: int
    pixels: np.ndarray


def padded(image: np.ndarray, tile: int) -> np.ndarray:
    """The picture, mirrored beyond its lower and right edges where it is smaller than a tile."""
    height, width = image.shape[:2]
    short = ((0, max(0, tile - height)), (0, max(0, tile - width)), (0, 0))
    return np.pad(image, short, mode="symmetric") if height < tile or width < tile else image


def restore_pictures(
    apply: Apply,
    pictures: Iterable[np.ndarray],
    *,
    scale: int,
    tile: int = 48,
    overlap: int = 12,
    batch: int = 16,
    protocol: str = "blend",
    ensemble: bool = False,
) -> Iterator[np.ndarray]:
    """Restores pictures of any sizes, also smaller than a tile, tile by tile.

    Tiles of several pictures share a call, so that each call but the last is full and one program
    serves all. A call is made before the one before it is read, so that device and host work at the
    same time.

    Args:
      apply: `float32 [batch, tile, tile, 3] -> [batch, tile * scale, tile * scale, 3]`, 0..255.
      pictures: `[H, W, 3]` each, uint8 or float, 0..255.
      scale: of the task.
      tile: side of the network's input.
      overlap: of "blend": least number of lq pixels that neighbours share; must be less than
        `tile`.
      batch: tiles a call.
      protocol: how a picture is cut and put together: see `protocols`.
      ensemble: whether the mean over the 8 flips and transpositions is taken.

    Yields:
      float32 `[H * scale, W * scale, 3]` for each picture, in order, neither clipped nor rounded.

    Raises:
      ValueError: something that is not `[H, W, 3]`, an unknown protocol or an impossible overlap.
    """
    jobs: collections.deque[_Job] = collections.deque()
    waiting: list[_Tile] = []
    running: tuple[list[_Tile], Any] | None = None

    def collect() -> None:
        nonlocal running
        if running is not None:
            tiles, outs = running
            outs = np.asarray(outs, np.float32)
            for slot, cut in enumerate(tiles):
                cut.stitcher.add(cut.k, outs[slot])
                cut.job.left -= 1
            running = None

    def flush() -> None:
        nonlocal running
        pixels = np.zeros((batch, tile, tile, 3), np.float32)
        for slot, cut in enumerate(waiting):
            pixels[slot] = cut.pixels
        started = (waiting.copy(), apply(pixels))
        waiting.clear()
        collect()
        running = started

    for image in pictures:
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ValueError(f"a picture must be [H, W, 3], not {list(image.shape)}")
        transforms = EIGHT if ensemble else PLAIN
        job = _Job((image.shape[0] * scale, image.shape[1] * scale), transforms, [], 0)
        whole = padded(image, tile)
        for how in transforms:
            view = transformed(whole, how)
            made = stitcher(protocol, *view.shape[:2], tile=tile, scale=scale, overlap=overlap)
            job.canvases.append(made)
            job.left += len(made.corners)
        jobs.append(job)
        for how, made in zip(transforms, job.canvases, strict=True):
            view = transformed(whole, how)
            for k, (y, x) in enumerate(made.corners):
                waiting.append(_Tile(job, made, k, view[y : y + tile, x : x + tile]))
                if len(waiting) == batch:
                    flush()
        while jobs and jobs[0].left == 0:
            yield jobs.popleft().result()
    if waiting:
        flush()
    collect()
    for job in jobs:
        yield job.result()


def count_tiles(
    height: int,
    width: int,
    *,
    tile: int,
    protocol: str = "blend",
    overlap: int = 12,
    ensemble: bool = False,
) -> int:
    """Tiles that a picture of this size takes."""
    one = len(
        stitcher(
            protocol, max(height, tile), max(width, tile), tile=tile, scale=1, overlap=overlap
        ).corners
    )
    if not ensemble:
        return one
    turned = len(
        stitcher(
            protocol, max(width, tile), max(height, tile), tile=tile, scale=1, overlap=overlap
        ).corners
    )
    return 4 * (one + turned)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """0..255 float -> uint8, rounded half up and clipped."""
    return np.clip(np.floor(image + 0.5), 0, 255).astype(np.uint8)
