"""`Restorer`: weights, the network that they are for, and its tasks, ready to restore pictures."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ipt_jax.distributed import devices as devices_module
from ipt_jax.distributed import sharding as partition
from ipt_jax.images import channels, pillow
from ipt_jax.messages import nearest
from ipt_jax.model import IPT
from ipt_jax.restore.images import count_tiles, restore_pictures
from ipt_jax.restore.network import Apply, CompiledNetwork
from ipt_jax.restore.strips import Read, Rows, restore_strips
from ipt_jax.tasks import Task

# Tiles a call, for each device
BATCH = 16


@dataclasses.dataclass(frozen=True)
class Restorer:
    """A trained network for some tasks: what `ipt_jax.load` returns.

    Attributes:
      model: the Flax module.
      params: its float32 parameters, `{"body", "task_<name>"}`.
      tasks: the model's tasks by name, in its order.
      provenance: where the weights come from.
    """

    model: IPT
    params: Mapping[str, Any]
    tasks: Mapping[str, Task]
    provenance: Mapping[str, Any]

    @functools.cached_property
    def _mesh(self) -> Mesh:
        return devices_module.make_mesh()

    @functools.cached_property
    def _tile_apply(self) -> CompiledNetwork:
        return CompiledNetwork(self.model, self._mesh)

    @functools.cached_property
    def _on_devices(self) -> Any:
        return jax.device_put(dict(self.params), partition.replicated(self._mesh))

    @property
    def devices(self) -> int:
        """Devices over which tiles are split."""
        return self._mesh.size

    def programs(self) -> int:
        """Programs compiled so far."""
        return self._tile_apply.programs()

    def task(self, name: str | None = None) -> Task:
        """The task of that name; the only one there is where no name is given.

        Raises:
          ValueError: no such task, or no name and several tasks.
        """
        if name is None and len(self.tasks) == 1:
            return next(iter(self.tasks.values()))
        if name is None:
            raise ValueError(f"name a task of this model: {', '.join(self.tasks)}")
        if name not in self.tasks:
            raise ValueError(
                f"this model has no task {name!r}{nearest(name, self.tasks)}; it has "
                f"{', '.join(self.tasks)}"
            )
        return self.tasks[name]

    def bind(self, task: str) -> Apply:
        """The network as `apply` of `restore.restore_pictures`."""
        return self._tile_apply.bind(self._on_devices, self.task(task).name)

    def apply(self, patches: np.ndarray, task: str | None = None) -> np.ndarray:
        """Restores tiles.

        Args:
          patches: uint8 or float `[B, tile, tile, 3]`, 0..255, of any B: they are taken in powers
            of two up to 16 a device.
          task: its name; may be left out where the model has one.

        Returns:
          float32 `[B, tile * scale, tile * scale, 3]`, 0..255, neither clipped nor rounded.

        Raises:
          ValueError: another shape, or no such task.
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

    def restore_all(
        self,
        images: Iterable[np.ndarray],
        task: str | None = None,
        *,
        protocol: str = "blend",
        ensemble: bool = False,
        overlap: int = 12,
        batch: int = BATCH,
    ) -> Iterator[np.ndarray]:
        """Restores pictures `[H, W, 3]`, uint8 or float in 0..255, tiles of several in a call.

        Yields:
          float32 `[H * scale, W * scale, 3]` for each, in order, neither clipped nor rounded.
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

    def chain(self, task: str | Sequence[str] | None = None) -> list[Task]:
        """The tasks of "denoise30,sr2" or ["denoise30", "sr2"], in this order: each takes what the
        one before it made.

        Raises:
          ValueError: no such task, or no name and several tasks.
        """
        if task is None:
            return [self.task(None)]
        names = [word.strip() for word in task.split(",")] if isinstance(task, str) else list(task)
        return [self.task(name) for name in names]

    def restore(
        self,
        image: Any,
        task: str | Sequence[str] | None = None,
        *,
        protocol: str = "blend",
        ensemble: bool = False,
        overlap: int = 12,
        batch: int = BATCH,
    ) -> Any:
        """Restores a picture of any size, or several.

        Args:
          image: a Pillow picture; or an array `[H, W]` or `[H, W, 1]` (grey), `[H, W, 2]` (grey and
            alpha), `[H, W, 3]`, `[H, W, 4]` (with alpha), uint8, uint16, or float in 0..255; or a
            batch of arrays `[B, H, W, C]`; or a list of any of these, of any sizes.
          task: its name; may be left out where the model has one. "denoise30,sr2", or a list of
            names: one after the other.
          protocol: "blend", "paper", "official" or "mindspore" (protocols.py).
          ensemble: the mean over 8 flips and transpositions; 8 times the work.
          overlap: of "blend": pixels that tiles share at least.
          batch: tiles a call, for each device.

        Returns:
          The restored picture, of the kind, channels and dtype of the input; float comes back as
          float32, neither clipped nor rounded. Alpha is kept, for super-resolution enlarged
          (bicubic). For a batch a batch, for a list a list.

        Raises:
          ValueError: not such a picture, an unknown task or protocol.
        """
        settings: dict[str, Any] = dict(
            protocol=protocol, ensemble=ensemble, overlap=overlap, batch=batch
        )
        if isinstance(image, (list, tuple)):
            return self._restored(list(image), self.chain(task), settings)
        if getattr(image, "ndim", 0) == 4:
            return np.stack(self._restored(list(image), self.chain(task), settings))
        return self._restored([image], self.chain(task), settings)[0]

    def _restored(
        self, images: list[Any], tasks: list[Task], settings: dict[str, Any]
    ) -> list[Any]:
        """Arrays and Pillow pictures; tiles of all of them fill the calls."""
        arrays = [
            pillow.to_array(image) if pillow.is_picture(image) else np.asarray(image)
            for image in images
        ]
        for array in arrays:
            channels.check_image(array)
        outs = [channels.colour(array) for array in arrays]
        for i, task in enumerate(tasks):
            # What a picture file could hold, but not rounded
            outs = [np.clip(out, 0, 255) for out in outs] if i else outs
            outs = list(self.restore_all(outs, task.name, **settings))
        scale = math.prod(task.scale for task in tasks)
        alphas = [channels.alpha_of(array) for array in arrays]
        bigs = [None if alpha is None else channels.enlarged(alpha, scale) for alpha in alphas]
        made = [channels.like(*three) for three in zip(outs, arrays, bigs, strict=True)]
        return [
            pillow.from_array(out, image) if pillow.is_picture(image) else out
            for out, image in zip(made, images)
        ]

    def restore_strips(
        self,
        read: Read,
        height: int,
        width: int,
        task: str | Sequence[str] | None = None,
        *,
        protocol: str = "blend",
        ensemble: bool = False,
        overlap: int = 12,
        batch: int = BATCH,
        done: Callable[[int], Any] = lambda tiles: None,
    ) -> Iterator[np.ndarray]:
        """Restores a picture of any size in bounded memory: yields its rows from top to bottom,
        strip by strip.

        Args:
          read: `read(first, last)` gives rows of the picture, `[last - first, W, 3]`, uint8 or
            float in 0..255.
          height, width: of the picture.
          task, protocol, ensemble, overlap, batch: as for `restore`; protocols other than "blend"
            hold the whole picture.
          done: called with the number of tiles that were just finished.

        Yields:
          float32 `[rows, width * scale, 3]`, neither clipped nor rounded.

        Raises:
          ValueError: an unknown task or protocol, or an impossible overlap.
        """
        settings: dict[str, Any] = dict(ensemble=ensemble, overlap=overlap)
        strips: Iterator[np.ndarray] = iter(())
        for i, one in enumerate(self.chain(task)):
            if i:
                above = Rows(strips)
                read = lambda first, last, above=above: np.clip(above(first, last), 0, 255)  # type: ignore[misc]  # noqa: E731
            if protocol == "blend":
                strips = restore_strips(
                    self.bind(one.name),
                    read,
                    height,
                    width,
                    scale=one.scale,
                    tile=self.model.tile,
                    batch=batch * self.devices,
                    done=done,
                    **settings,
                )
            else:
                strips = self._whole(
                    read, height, width, one, done, dict(settings, protocol=protocol, batch=batch)
                )
            height, width = height * one.scale, width * one.scale
        return strips

    def _whole(
        self,
        read: Read,
        height: int,
        width: int,
        task: Task,
        done: Callable[[int], Any],
        settings: dict[str, Any],
    ) -> Iterator[np.ndarray]:
        yield from self.restore_all([read(0, height)], task.name, **settings)
        done(
            self.tiles(
                height, width, task.name, **{k: v for k, v in settings.items() if k != "batch"}
            )
        )

    def tiles(
        self,
        height: int,
        width: int,
        task: str | Sequence[str] | None = None,
        *,
        protocol: str = "blend",
        ensemble: bool = False,
        overlap: int = 12,
    ) -> int:
        """Tiles that restoring a picture of this size takes, all tasks of a chain together."""
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

    def only(self, names: Sequence[str]) -> Restorer:
        """The same weights with some of the tasks, in this order."""
        tasks = {name: self.task(name) for name in names}
        groups = {
            "body": self.params["body"],
            **{f"task_{name}": self.params[f"task_{name}"] for name in tasks},
        }
        scales = tuple((task.name, task.scale) for task in tasks.values())
        return Restorer(self.model.clone(scales=scales), groups, tasks, self.provenance)
