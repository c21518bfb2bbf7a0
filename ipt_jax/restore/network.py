"""The compiled network, for batches of tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ipt_jax.distributed import sharding
from ipt_jax.model import IPT

# float32 `[B, tile, tile, 3]` -> array `[B, tile * scale, tile * scale, 3]`, both in 0..255.
Apply = Callable[[np.ndarray], Any]


class CompiledNetwork:
    """The network, compiled once for each task, with the tiles of a call split over all devices.

    Args:
      model: the Flax module.
      mesh: the devices.
    """

    def __init__(self, model: IPT, mesh: Mesh):
        self._mesh = mesh
        self._programs = 0
        replicated = sharding.replicated(mesh)

        def forward(params: Any, tiles: jax.Array, task: str) -> jax.Array:
            # This line runs when the function is traced, that is once for each program.
            self._programs += 1
            return model.apply({"params": params}, {task: tiles}, mesh.size)[0][task].astype(
                jnp.float32
            )

        self._forward = jax.jit(
            forward,
            static_argnums=2,
            in_shardings=(replicated, sharding.split(mesh)),
            out_shardings=replicated,
        )

    def bind(self, params: Any, task: str) -> Apply:
        """Returns the network for a task with these parameters.

        A call of the result returns before the device has finished.
        """
        needed = {group: params[group] for group in ("body", f"task_{task}")}
        # The parameters are copied to the devices here, not with every call.
        needed = jax.device_put(needed, sharding.replicated(self._mesh))

        def apply(tiles: np.ndarray) -> jax.Array:
            return self._forward(needed, sharding.put_rows(tiles, self._mesh), task)

        return apply

    def programs(self) -> int:
        """Returns the number of programs compiled so far: one for each task and batch size."""
        return self._programs
