"""The compiled network, for batches of tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ipt_jax.distributed import sharding as partition
from ipt_jax.model import IPT

Apply = Callable[[np.ndarray], Any]


class CompiledNetwork:
    """The network as `apply` for each of its tasks: compiled once a task, tiles split over all
    devices.
    """

    def __init__(self, model: IPT, mesh: Mesh):
        self._mesh = mesh
        self._programs = 0
        whole = partition.replicated(mesh)

        def forward(params: Any, tiles: jax.Array, task: str) -> jax.Array:
            # Here when it is traced, not when it runs
            self._programs += 1
            return model.apply({"params": params}, {task: tiles}, mesh.size)[0][task].astype(
                jnp.float32
            )

        self._forward = jax.jit(
            forward,
            static_argnums=2,
            in_shardings=(whole, partition.split(mesh)),
            out_shardings=whole,
        )

    def bind(self, params: Any, task: str) -> Apply:
        """`apply` for `restore_pictures`, with these parameters. It returns before the device is
        done.
        """
        needed = {group: params[group] for group in ("body", f"task_{task}")}
        # Once, not with every call
        needed = jax.device_put(needed, partition.replicated(self._mesh))

        def apply(tiles: np.ndarray) -> jax.Array:
            return self._forward(needed, partition.put_rows(tiles, self._mesh), task)

        return apply

    def programs(self) -> int:
        """Programs compiled so far: one a task, whatever the pictures."""
        return self._programs
