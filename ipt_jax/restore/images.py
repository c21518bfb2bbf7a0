"""Pictures of any size through a network for a fixed tile: cut, batch, put together."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ipt_jax.distributed import sharding as partition
from ipt_jax.model import IPT
from ipt_jax.restore.tiling import Canvas, canvas

Apply = Callable[[np.ndarray], Any]
Transform = tuple[bool, bool, bool]

PLAIN: tuple[Transform, ...] = ((False, False, False),)
# The x8 self-ensemble: upside down, mirrored, transposed, in all combinations.
EIGHT: tuple[Transform, ...] = tuple((f, m, t) for f in (False, True) for m in (False, True) for t in (False, True))


def transformed(image: np.ndarray, how: Transform) -> np.ndarray:
    """A picture `[H, W, C]` upside down, mirrored, transposed, as asked, in this order."""
    upside_down, mirrored, transposed = how
    image = image[::-1] if upside_down else image
    image = image[:, ::-1] if mirrored else image
    return image.swapaxes(0, 1) if transposed else image


def undone(image: np.ndarray, how: Transform) -> np.ndarray:
    """The inverse of `transformed`."""
    upside_down, mirrored, transposed = how
    image = image.swapaxes(0, 1) if transposed else image
    return transformed(image, (upside_down, mirrored, False))


@dataclasses.dataclass
class _Job:
    """A picture under restoration: a canvas for each transform of it, and how many tiles are still to come."""

    size: tuple[int, int]
    transforms: tuple[Transform, ...]
    canvases: list[Canvas]
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
    canvas: Canvas
    k: int
    pixels: np.ndarray


def padded(image: np.ndarray, tile: int) -> np.ndarray:
    """The picture, mirrored beyond its lower and right edges where it is smaller than a tile."""
    height, width = image.shape[:2]
    short = ((0, max(0, tile - height)), (0, max(0, tile - width)), (0, 0))
    return np.pad(image, short, mode="symmetric") if height < tile or width < tile else image


def restore_pictures(
    apply: Apply, pictures: Iterable[np.ndarray], *, scale: int, tile: int = 48, overlap: int = 12, batch: int = 16,
    protocol: str = "blend", ensemble: bool = False,
) -> Iterator[np.ndarray]:  # fmt: skip
    """Restores pictures of any sizes, also smaller than a tile, tile by tile.

    Tiles of several pictures share a call, so that each call but the last is full and one program serves all. A call
    is made before the one before it is read, so that device and host work at the same time.

    Args:
      apply: `float32 [batch, tile, tile, 3] -> [batch, tile * scale, tile * scale, 3]`, 0..255.
      pictures: `[H, W, 3]` each, uint8 or float, 0..255.
      scale: of the task.
      tile: side of the network's input.
      overlap: of "blend": least number of lq pixels that neighbours share; must be less than `tile`.
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
                cut.canvas.add(cut.k, outs[slot])
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
            made = canvas(protocol, *view.shape[:2], tile=tile, scale=scale, overlap=overlap)
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
    height: int, width: int, *, tile: int, protocol: str = "blend", overlap: int = 12, ensemble: bool = False
) -> int:
    """Tiles that a picture of this size takes."""
    one = len(canvas(protocol, max(height, tile), max(width, tile), tile=tile, scale=1, overlap=overlap).corners)
    if not ensemble:
        return one
    turned = len(canvas(protocol, max(width, tile), max(height, tile), tile=tile, scale=1, overlap=overlap).corners)
    return 4 * (one + turned)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """0..255 float -> uint8, rounded half up and clipped."""
    return np.clip(np.floor(image + 0.5), 0, 255).astype(np.uint8)


class TileApply:
    """The network as `apply` for each of its tasks: compiled once a task, tiles split over all devices."""

    def __init__(self, model: IPT, mesh: Mesh):
        self._mesh = mesh
        self._programs = 0
        whole = partition.replicated(mesh)

        def forward(params: Any, tiles: jax.Array, task: str) -> jax.Array:
            self._programs += 1  # here when it is traced, not when it runs
            return model.apply({"params": params}, {task: tiles}, mesh.size)[0][task].astype(jnp.float32)

        self._forward = jax.jit(forward, static_argnums=2, in_shardings=(whole, partition.split(mesh)), out_shardings=whole)

    def bind(self, params: Any, task: str) -> Apply:
        """`apply` for `restore_pictures`, with these parameters. It returns before the device is done."""
        needed = {group: params[group] for group in ("body", f"task_{task}")}
        needed = jax.device_put(needed, partition.replicated(self._mesh))  # once, not with every call

        def apply(tiles: np.ndarray) -> jax.Array:
            return self._forward(needed, partition.put_rows(tiles, self._mesh), task)

        return apply

    def programs(self) -> int:
        """Programs compiled so far: one a task, whatever the pictures."""
        return self._programs
