"""`Restorer`: weights with their network and tasks, ready to restore images."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ipt_jax.distributed.devices import make_mesh
from ipt_jax.distributed.sharding import replicated
from ipt_jax.images import channels, pillow
from ipt_jax.log import logger
from ipt_jax.model import IPT
from ipt_jax.restore.images import count_tiles, restore_pictures
from ipt_jax.restore.network import Apply, CompiledNetwork
from ipt_jax.restore.strips import Read, Rows, restore_strips
from ipt_jax.restore.tiling import OVERLAP, Tiling
from ipt_jax.tasks import Task, similar_task

# Tiles per call and device.
BATCH = 16
# Rows that are converted at a time, because the conversion makes several copies of them.
ROWS_AT_A_TIME = 64


@dataclasses.dataclass(frozen=True)
class Restorer:
    """A trained network for some tasks: what `ipt_jax.load` returns.

    Attributes:
      model: the Flax module.
      params: the float32 parameters, `{"body", "task_<name>"}`.
      tasks: the tasks of the model by name, in the model's order.
      provenance: where the weights come from.
    """

    model: IPT
    params: Mapping[str, Any]
    tasks: Mapping[str, Task]
    provenance: Mapping[str, Any]

    @functools.cached_property
    def _mesh(self) -> Mesh:
        return make_mesh()

    @functools.cached_property
    def _network(self) -> CompiledNetwork:
        return CompiledNetwork(self.model, self._mesh)

    @functools.cached_property
    def _on_devices(self) -> Any:
        return jax.device_put(dict(self.params), replicated(self._mesh))

    @property
    def devices(self) -> int:
        """Number of devices over which tiles are split."""
        return self._mesh.size

    def programs(self) -> int:
        """Returns the number of programs compiled so far."""
        return self._network.programs()

    def task(self, name: str | None = None) -> Task:
        """Returns the task of this name; without a name, the only task of the model.

        Raises:
          ValueError: there is no such task, or no name is given and the model has several tasks.
        """
        if name is None and len(self.tasks) == 1:
            return next(iter(self.tasks.values()))
        if name is None:
            raise ValueError(f"name a task of this model: {', '.join(self.tasks)}")
        if name not in self.tasks:
            raise ValueError(
                f"this model has no task {name!r}{similar_task(name, self.tasks)}; it has "
                f"{', '.join(self.tasks)}"
            )
        return self.tasks[name]

    def chain(self, task: str | Sequence[str] | None = None) -> list[Task]:
        """Returns the tasks of "denoise30,sr2" or ["denoise30", "sr2"], in this order.

        Each task restores the result of the previous task.

        Raises:
          ValueError: there is no such task, or no name is given and the model has several tasks.
        """
        if task is None:
            return [self.task(None)]
        names = [word.strip() for word in task.split(",")] if isinstance(task, str) else list(task)
        return [self.task(name) for name in names]

    def only(self, names: Sequence[str]) -> Restorer:
        """Returns the same weights with these tasks only, in this order.

        Raises:
          ValueError: there is no such task.
        """
        tasks = {name: self.task(name) for name in names}
        groups = {
            "body": self.params["body"],
            **{f"task_{name}": self.params[f"task_{name}"] for name in tasks},
        }
        scales = tuple((task.name, task.scale) for task in tasks.values())
        return Restorer(self.model.clone(scales=scales), groups, tasks, self.provenance)

    def bind(self, task: str) -> Apply:
        """Returns the compiled network for a task; see `network.Apply`."""
        return self._network.bind(self._on_devices, self.task(task).name)

    def apply(self, patches: np.ndarray, task: str | None = None) -> np.ndarray:
        """Restores tiles.

        Args:
          patches: uint8 or float `[B, tile, tile, 3]`, 0..255, of any B. They are restored in calls
            of a power of two, at most 16 tiles per device, so that few programs are compiled.
          task: name of the task; it may be omitted where the model has one task.

        Returns:
          float32 `[B, tile * scale, tile * scale, 3]`, 0..255, neither clipped nor rounded.

        Raises:
          ValueError: the shape is wrong, or there is no such task.
        """
        tile, chosen = self.model.tile, self.task(task)
        if patches.ndim != 4 or patches.shape[1:] != (tile, tile, 3) or not len(patches):
            raise ValueError(f"patches must be [B, {tile}, {tile}, 3], not {list(patches.shape)}")
        apply, each = self.bind(chosen.name), -(-len(patches) // self.devices)
        size = self.devices * min(BATCH, 1 << (each - 1).bit_length())
        rows = np.zeros((-(-len(patches) // size) * size, *patches.shape[1:]), np.float32)
        rows[: len(patches)] = patches
        outs = [np.asarray(apply(rows[i : i + size])) for i in range(0, len(rows), size)]
        return np.concatenate(outs)[: len(patches)]

    def restore(
        self,
        image: Any,
        task: str | Sequence[str] | None = None,
        *,
        protocol: str = "blend",
        ensemble: bool = False,
        overlap: int = OVERLAP,
        batch: int = BATCH,
    ) -> Any:
        """Restores one or several images of any size.

        Args:
          image: a Pillow image (of an animation, its present frame); or an array `[H, W]` or
            `[H, W, 1]` (grey), `[H, W, 2]` (grey, alpha), `[H, W, 3]` (RGB) or `[H, W, 4]` (RGB,
            alpha) of uint8, uint16, or float in 0..255; or a batch of arrays `[B, H, W, C]`; or a
            list of images of any sizes.
          task: name of the task; it may be omitted where the model has one task. "denoise30,sr2" or
            a list of names applies several tasks one after the other.
          protocol: how an image is cut into tiles, one of `tiling.PROTOCOLS`.
          ensemble: whether the mean over the 8 flips and transpositions is taken, which takes 8
            times as long.
          overlap: for "blend", the minimum number of pixels that neighbouring tiles share.
          batch: tiles per call and device.

        Returns:
          The restored image, with the type, channels and dtype of the input. A float input gives
          float32, neither clipped nor rounded. Alpha is kept; for super-resolution it is enlarged
          (bicubic). A batch gives a batch and a list gives a list.

        Raises:
          ValueError: the input is not an image of these kinds, or the task, protocol or overlap is
            not valid.
        """
        tiling = Tiling(protocol=protocol, ensemble=ensemble, overlap=overlap)
        if isinstance(image, (list, tuple)):
            return self._restore_images(list(image), self.chain(task), tiling, batch)
        if getattr(image, "ndim", 0) == 4:
            return np.stack(self._restore_images(list(image), self.chain(task), tiling, batch))
        return self._restore_images([image], self.chain(task), tiling, batch)[0]

    def _restore_images(
        self, images: list[Any], tasks: list[Task], tiling: Tiling, batch: int
    ) -> list[Any]:
        """Restores arrays and Pillow images; tiles of all of them share calls."""
        for image in images:
            if pillow.is_picture(image) and (frames := getattr(image, "n_frames", 1)) > 1:
                logger.warning(
                    "a Pillow image has %d frames, and only the present one is restored; seek to "
                    "each frame, or use ipt restore, which restores all",
                    frames,
                )
        arrays = [
            pillow.to_array(image) if pillow.is_picture(image) else np.asarray(image)
            for image in images
        ]
        for array in arrays:
            channels.check_image(array)
        outs = [self.visible_colour(array) for array in arrays]
        for i, task in enumerate(tasks):
            # Between two tasks the values are clipped as in an image file, but not rounded.
            outs = [np.clip(out, 0, 255) for out in outs] if i else outs
            outs = list(self.restore_all(outs, task.name, batch=batch, **tiling))
        scale = math.prod(task.scale for task in tasks)
        alphas = [channels.alpha_of(array) for array in arrays]
        enlarged = [None if alpha is None else channels.enlarged(alpha, scale) for alpha in alphas]
        results = [channels.like(*three) for three in zip(outs, arrays, enlarged, strict=True)]
        return [
            pillow.from_array(out, image) if pillow.is_picture(image) else out
            for out, image in zip(results, images)
        ]

    def visible_colour(self, image: np.ndarray) -> np.ndarray:
        """Returns what the network sees of an image: its RGB in 0..255, `[H, W, 3]`.

        Fully transparent pixels have the colour of the nearest visible pixel.
        """
        return channels.colour(channels.fill_transparent(image, self.model.tile))

    def restore_all(
        self,
        images: Iterable[np.ndarray],
        task: str | None = None,
        *,
        protocol: str = "blend",
        ensemble: bool = False,
        overlap: int = OVERLAP,
        batch: int = BATCH,
    ) -> Iterator[np.ndarray]:
        """Restores images `[H, W, 3]`, uint8 or float in 0..255; tiles of several share a call.

        Args:
          images: the images, which are drawn when a batch needs their tiles.
          task, protocol, ensemble, overlap, batch: see `restore`; one task only.

        Yields:
          float32 `[H * scale, W * scale, 3]` for each image, in order, neither clipped nor rounded.
        """
        chosen = self.task(task)
        return restore_pictures(
            self.bind(chosen.name),
            images,
            scale=chosen.scale,
            tile=self.model.tile,
            overlap=overlap,
            batch=batch * self.devices,
            protocol=protocol,
            ensemble=ensemble,
        )

    def restore_strips(
        self,
        read: Read,
        height: int,
        width: int,
        task: str | Sequence[str] | None = None,
        *,
        protocol: str = "blend",
        ensemble: bool = False,
        overlap: int = OVERLAP,
        batch: int = BATCH,
        done: Callable[[int], Any] = lambda tiles: None,
    ) -> Iterator[np.ndarray]:
        """Restores an image of any size in bounded memory, strip by strip from top to bottom.

        Args:
          read: `read(first, last)` gives rows first..last - 1 of the image,
            `[last - first, W, 3]`, uint8 or float in 0..255.
          height: height of the image in pixels.
          width: width of the image in pixels.
          task, protocol, ensemble, overlap, batch: see `restore`. Protocols other than "blend" hold
            the complete image.
          done: called with the number of tiles that were finished since the last call.

        Yields:
          float32 `[rows, width * scale, 3]`, neither clipped nor rounded.

        Raises:
          ValueError: the task, protocol or overlap is not valid.
        """
        strips: Iterator[np.ndarray] = iter(())
        for i, one in enumerate(self.chain(task)):
            if i:
                read = _clipped(Rows(strips))
            if protocol == "blend":
                strips = restore_strips(
                    self.bind(one.name),
                    read,
                    height,
                    width,
                    scale=one.scale,
                    tile=self.model.tile,
                    overlap=overlap,
                    ensemble=ensemble,
                    batch=batch * self.devices,
                    done=done,
                )
            else:
                tiling = Tiling(protocol=protocol, overlap=overlap, ensemble=ensemble)
                strips = self._as_one_strip(read, height, width, one.name, tiling, batch, done)
            height, width = height * one.scale, width * one.scale
        return strips

    def restore_rows(
        self,
        pixels: np.ndarray,
        task: str | Sequence[str] | None = None,
        *,
        batch: int = BATCH,
        done: Callable[[int], Any] = lambda tiles: None,
        **tiling: Any,
    ) -> Iterator[np.ndarray]:
        """Restores an image in bounded memory; yields rows of the kind that the image has.

        Args:
          pixels: `[H, W, C]`, uint8 or uint16, as `images.read.ImageFile` has them, with colours
            under full transparency filled (`channels.fill_transparent`).
          task, batch, done, tiling: see `restore_strips`.

        Yields:
          `[rows, W * scale, C]` of the dtype of `pixels`, from top to bottom; alpha is enlarged.
        """
        tasks, row = self.chain(task), 0
        scale = math.prod(one.scale for one in tasks)
        alpha = channels.alpha_of(pixels)
        for strip in self.restore_strips(
            lambda first, last: channels.colour(pixels[first:last]),
            pixels.shape[0],
            pixels.shape[1],
            [one.name for one in tasks],
            batch=batch,
            done=done,
            **tiling,
        ):
            for first in range(0, len(strip), ROWS_AT_A_TIME):
                part = strip[first : first + ROWS_AT_A_TIME]
                enlarged = None
                if alpha is not None:
                    enlarged = channels.enlarged_rows(alpha, scale, row, row + len(part))
                yield channels.like(part, pixels, enlarged)
                row += len(part)

    def _as_one_strip(
        self,
        read: Read,
        height: int,
        width: int,
        task: str,
        tiling: Tiling,
        batch: int,
        done: Callable[[int], Any],
    ) -> Iterator[np.ndarray]:
        yield from self.restore_all([read(0, height)], task, batch=batch, **tiling)
        done(self.tiles(height, width, task, **tiling))

    def tiles(
        self,
        height: int,
        width: int,
        task: str | Sequence[str] | None = None,
        *,
        protocol: str = "blend",
        ensemble: bool = False,
        overlap: int = OVERLAP,
    ) -> int:
        """Returns the number of tiles that an image of this size takes, over all tasks of a chain.

        Raises:
          ValueError: the task, protocol or overlap is not valid.
        """
        total = 0
        for one in self.chain(task):
            total += count_tiles(
                height,
                width,
                tile=self.model.tile,
                protocol=protocol,
                overlap=overlap,
                ensemble=ensemble,
            )
            height, width = height * one.scale, width * one.scale
        return total


def _clipped(read: Read) -> Read:
    """Returns the rows of `read`, clipped to 0..255."""
    return lambda first, last: np.clip(read(first, last), 0, 255)
