"""Devices: distributed start, mesh, shardings, barriers. Every version-sensitive call of jax is here.

What `pmap` and `pjit` stood for is `jax.jit` with `NamedSharding`: the batch is split over one axis, "data", the
parameters are whole on each device, and the compiler puts in the one reduction of gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA = "data"


def make_mesh(count: int = 0) -> Mesh:
    """A mesh with one data axis over all devices of all hosts, or over the first `count` of a single host.

    Raises:
      ValueError: more devices asked for than there are.
    """
    devices = jax.devices()
    if count > len(devices):
        raise ValueError(
            f"devices={count} asked for, but there are {len(devices)} ({devices[0].platform}); use fewer, or 0 for all"
        )
    devices = devices[:count] if count else devices
    # Explicit axes, the default since jax 0.9, do not go through a linen convolution -> patches -> attention.
    return jax.make_mesh((len(devices),), (DATA,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """This host's rows (numpy) of a batch -> global arrays split over the mesh."""
    sharding = split(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def my_rows(rows: np.ndarray) -> np.ndarray:
    """This host's share of rows that every host holds whole."""
    count, index = jax.process_count(), jax.process_index()
    share = len(rows) // count
    return rows[index * share : (index + 1) * share]


def abstract(tree: Any, sharding: NamedSharding) -> Any:
    """Shapes and dtypes of a tree, each leaf with this sharding: the target of a restore."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def is_main() -> bool:
    """Whether this process writes logs and pictures."""
    return jax.process_index() == 0


def describe() -> Mapping[str, Any]:
    """Devices and processes, for the log."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
    }
