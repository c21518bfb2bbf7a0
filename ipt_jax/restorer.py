"""`Restorer`: weights, the network that they are for, and its tasks, ready to restore pictures."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ipt_jax import partition
from ipt_jax.data.degrade import bicubic_up
from ipt_jax.model import IPT
from ipt_jax.restore import Apply, TileApply, restore_pictures, to_uint8
from ipt_jax.tasks import Task, nearest

BATCH = 16  # tiles a call, for each device


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
        return partition.make_mesh()

    @functools.cached_property
    def _tile_apply(self) -> TileApply:
        return TileApply(self.model, self._mesh)

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
            raise ValueError(f"this model has no task {name!r}{nearest(name, self.tasks)}; it has {', '.join(self.tasks)}")
        return self.tasks[name]

    def bind(self, task: str) -> Apply:
        """The network as `apply` of `restore.restore_pictures`."""
        return self._tile_apply.bind(self._on_devices, self.task(task).name)

    def apply(self, patches: np.ndarray, task: str | None = None) -> np.ndarray:
        """Restores tiles.

        Args:
          patches: uint8 or float `[B, tile, tile, 3]`, 0..255, of any B: they are taken in powers of two up to 16 a device.
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
        self, images: Iterable[np.ndarray], task: str | None = None, *, protocol: str = "blend", ensemble: bool = False,
        overlap: int = 12, batch: int = BATCH,
    ) -> Iterator[np.ndarray]:  # fmt: skip
        """Restores pictures `[H, W, 3]`, uint8 or float in 0..255, tiles of several in a call.

        Yields:
          float32 `[H * scale, W * scale, 3]` for each, in order, neither clipped nor rounded.
        """
        chosen = self.task(task)
        return restore_pictures(self.bind(chosen.name), images, scale=chosen.scale, tile=self.model.tile, overlap=overlap,
                                batch=batch * self.devices, protocol=protocol, ensemble=ensemble)  # fmt: skip

    def restore(
        self, image: np.ndarray, task: str | None = None, *, protocol: str = "blend", ensemble: bool = False,
        overlap: int = 12, batch: int = BATCH,
    ) -> np.ndarray:  # fmt: skip
        """Restores a picture of any size.

        Args:
          image: `[H, W, 3]`, `[H, W, 4]` with alpha, `[H, W]` or `[H, W, 1]` grey; uint8, uint16, or float in 0..255.
          task: its name; may be left out where the model has one.
          protocol: "blend", "paper", "official" or "mindspore" (protocols.py).
          ensemble: the mean over 8 flips and transpositions; 8 times the work.
          overlap: of "blend": pixels that tiles share at least.
          batch: tiles a call, for each device.

        Returns:
          The restored picture, of the channels and dtype of the input; float comes back as float32, neither clipped
          nor rounded. Alpha is kept, for super-resolution enlarged (bicubic).

        Raises:
          ValueError: not such a picture, an unknown task or protocol.
        """
        colour, alpha, grey, top = _colour(image)
        scale = self.task(task).scale
        settings: dict[str, Any] = dict(protocol=protocol, ensemble=ensemble, overlap=overlap, batch=batch)
        (out,) = self.restore_all([colour], task, **settings)
        if grey:
            out = out.mean(axis=2) if image.ndim == 2 else out.mean(axis=2, keepdims=True)
        if top:
            out = np.clip(np.floor(out * (top / 255) + 0.5), 0, top).astype(image.dtype)
        if alpha is not None:
            big = _enlarged(alpha, scale, top)
            out = np.concatenate([out, big.astype(out.dtype)[..., None]], axis=2)
        return out

    def only(self, names: Sequence[str]) -> Restorer:
        """The same weights with some of the tasks, in this order."""
        tasks = {name: self.task(name) for name in names}
        groups = {"body": self.params["body"], **{f"task_{name}": self.params[f"task_{name}"] for name in tasks}}
        scales = tuple((task.name, task.scale) for task in tasks.values())
        return Restorer(self.model.clone(scales=scales), groups, tasks, self.provenance)


def _colour(image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, bool, int]:
    """(float32 or uint8 RGB in 0..255, alpha, whether it was grey, the dtype's largest value or 0 for float)."""
    tops = {"uint8": 255, "uint16": 65535}
    kind = str(image.dtype)
    channels = 1 if image.ndim == 2 else image.shape[2] if image.ndim == 3 else 0
    if channels not in (1, 3, 4) or 0 in image.shape or (kind not in tops and image.dtype.kind != "f"):
        raise ValueError("a picture must be [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of uint8, uint16 or float, "
                         f"not {list(image.shape)} of {kind}")  # fmt: skip
    top = tops.get(kind, 0)
    pixels = image.reshape(*image.shape[:2], channels)
    alpha = pixels[..., 3] if channels == 4 else None
    colour = np.repeat(pixels, 3, axis=2) if channels == 1 else pixels[..., :3]
    if kind != "uint8":
        colour = colour.astype(np.float32)
        colour = colour * np.float32(255 / top) if top else colour
    return colour, alpha, channels == 1, top


def _enlarged(alpha: np.ndarray, scale: int, top: int) -> np.ndarray:
    if scale == 1:
        return alpha
    if top == 255:
        return bicubic_up(alpha, scale)
    # The exact bicubic is for uint8; alpha of other dtypes keeps its range through 8 bits.
    factor = top / 255 if top else 1.0
    return bicubic_up(to_uint8(alpha / factor), scale) * factor
