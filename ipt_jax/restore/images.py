"""Restores images of any size with a network for a fixed tile: cut, batch and stitch."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from ipt_jax.restore.batches import Tile, run_batches
from ipt_jax.restore.ensemble import EIGHT, PLAIN, Transform, transformed, undone
from ipt_jax.restore.network import Apply
from ipt_jax.restore.tiling import OVERLAP, Stitcher, make_stitcher


@dataclasses.dataclass
class _Restoration:
    """An image under restoration.

    Attributes:
      size: height and width of the result in pixels.
      transforms: the transforms of the image that are restored.
      stitchers: one stitcher per transform.
      missing: number of tiles whose outputs have not been added yet.
    """

    size: tuple[int, int]
    transforms: tuple[Transform, ...]
    stitchers: list[Stitcher]
    missing: int

    def result(self) -> np.ndarray:
        """Returns the mean over the transforms, float32 `[*size, 3]`."""
        total = undone(self.stitchers[0].stitched(), self.transforms[0])
        for how, stitcher in zip(self.transforms[1:], self.stitchers[1:], strict=True):
            total = total + undone(stitcher.stitched(), how)
        mean = total if len(self.stitchers) == 1 else total / np.float32(len(self.stitchers))
        return np.ascontiguousarray(mean[: self.size[0], : self.size[1]])


class _Place(NamedTuple):
    """Where the output of a tile belongs: tile `k` of a stitcher of an image."""

    restoration: _Restoration
    stitcher: Stitcher
    k: int


def padded(image: np.ndarray, tile: int) -> np.ndarray:
    """Returns the image `[H, W, C]`, mirrored at its lower and right edges up to a tile's size."""
    height, width = image.shape[:2]
    short = ((0, max(0, tile - height)), (0, max(0, tile - width)), (0, 0))
    return np.pad(image, short, mode="symmetric") if height < tile or width < tile else image


def restore_pictures(
    apply: Apply,
    pictures: Iterable[np.ndarray],
    *,
    scale: int,
    tile: int = 48,
    overlap: int = OVERLAP,
    batch: int = 16,
    protocol: str = "blend",
    ensemble: bool = False,
) -> Iterator[np.ndarray]:
    """Restores images of any size, including images smaller than a tile.

    Tiles of several images share a call, so that every call but the last is full.

    Args:
      apply: `float32 [batch, tile, tile, 3] -> [batch, tile * scale, tile * scale, 3]`, 0..255.
      pictures: images `[H, W, 3]`, uint8 or float, 0..255.
      scale: scale of the task.
      tile: side of the network's input in pixels.
      overlap: for "blend", the minimum number of lq pixels that neighbouring tiles share; less
        than `tile`.
      batch: tiles per call.
      protocol: how an image is cut and stitched, one of `tiling.PROTOCOLS`.
      ensemble: whether the mean over the 8 flips and transpositions is taken.

    Yields:
      float32 `[H * scale, W * scale, 3]` for each image, in order, neither clipped nor rounded.

    Raises:
      ValueError: an image is not `[H, W, 3]`, the protocol is unknown, or the overlap is not in
        0..tile - 1.
    """
    restorations: collections.deque[_Restoration] = collections.deque()
    transforms = EIGHT if ensemble else PLAIN

    def cut() -> Iterator[Tile[_Place]]:
        for image in pictures:
            if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                raise ValueError(f"an image must be [H, W, 3], not {list(image.shape)}")
            whole = padded(image, tile)
            views = [transformed(whole, how) for how in transforms]
            stitchers = [
                make_stitcher(protocol, *view.shape[:2], tile=tile, scale=scale, overlap=overlap)
                for view in views
            ]
            restoration = _Restoration(
                size=(image.shape[0] * scale, image.shape[1] * scale),
                transforms=transforms,
                stitchers=stitchers,
                missing=sum(len(stitcher.corners) for stitcher in stitchers),
            )
            restorations.append(restoration)
            for view, stitcher in zip(views, stitchers, strict=True):
                for k, (y, x) in enumerate(stitcher.corners):
                    yield Tile(view[y : y + tile, x : x + tile], _Place(restoration, stitcher, k))

    for outputs in run_batches(apply, cut(), batch=batch, tile=tile):
        for (restoration, stitcher, k), out in outputs:
            stitcher.add(k, out)
            restoration.missing -= 1
        while restorations and restorations[0].missing == 0:
            yield restorations.popleft().result()


def count_tiles(
    height: int,
    width: int,
    *,
    tile: int,
    protocol: str = "blend",
    overlap: int = OVERLAP,
    ensemble: bool = False,
) -> int:
    """Returns the number of tiles that an image of this size takes."""

    def count(height: int, width: int) -> int:
        stitcher = make_stitcher(
            protocol, max(height, tile), max(width, tile), tile=tile, scale=1, overlap=overlap
        )
        return len(stitcher.corners)

    if not ensemble:
        return count(height, width)
    # Four of the eight transforms are transposed.
    return 4 * (count(height, width) + count(width, height))


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Returns an image in 0..255 as uint8, rounded half up and clipped; uint8 is returned as is."""
    if image.dtype == np.uint8:
        return image
    return np.clip(np.floor(image + 0.5), 0, 255).astype(np.uint8)
