"""The leaves of a state under the names that Orbax stores them by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from ipt_jax import trees
from ipt_jax.checkpoints.fingerprints import supported
from ipt_jax.errors import CheckpointError


def flatten(tree: Any) -> tuple[dict[str, Any], Any]:
    """Returns the leaves of a pytree by name (their paths, joined with "/"), and its structure.

    Raises:
      CheckpointError: there are no leaves, or some have names that cannot be stored, or that would
        be the same file.
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(tree)
    leaves: dict[str, Any] = {}
    bad = []
    # Orbax joins names with dots: {"a.b": x} and {"a": {"b": y}} would be one file.
    files: set[str] = set()
    for path, leaf in paths:
        parts = [jax.tree_util.keystr((key,), simple=True) for key in path]
        name = "/".join(parts)
        file = name.replace(".", "/")
        if not parts or any(not part or "/" in part for part in parts) or file in files:
            bad.append(name)
        files.add(file)
        leaves[name] = leaf
    if bad or not leaves:
        raise CheckpointError(
            "leaves cannot be stored under these names: " + (", ".join(bad) or "(no leaves)")
        )
    return leaves, treedef


def check_storable(leaves: Mapping[str, Any]) -> None:
    """Raises CheckpointError for leaves that are not JAX arrays of a dtype with fingerprints."""
    if bad := [name for name, x in leaves.items() if not isinstance(x, jax.Array)]:
        raise CheckpointError("these leaves are not jax arrays: " + ", ".join(bad))
    if bad := [f"{name} ({x.dtype})" for name, x in leaves.items() if not supported(x.dtype)]:
        raise CheckpointError("these leaves have dtypes that cannot be stored: " + ", ".join(bad))


def stored(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the nested dict that Orbax stores: it refuses arrays without elements."""
    return trees.nested({name: x for name, x in leaves.items() if x.size})


def target(leaf: Any) -> jax.ShapeDtypeStruct:
    """Returns what Orbax needs to restore a leaf: its shape, dtype and sharding.

    A leaf without a sharding goes to the first device, or, with several processes, to all devices
    alike.
    """
    sharding = getattr(leaf, "sharding", None)
    if sharding is None and jax.process_count() > 1:
        sharding = NamedSharding(Mesh(np.array(jax.devices()), ("all",)), PartitionSpec())
    elif sharding is None:
        sharding = SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def empty(like: jax.ShapeDtypeStruct) -> jax.Array:
    """Returns an array without elements, of the given shape, dtype and sharding."""
    return jax.device_put(np.zeros(like.shape, like.dtype), like.sharding)
