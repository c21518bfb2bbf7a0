"""Shardings of batches and of the training state.

The step is a `jax.jit` with `NamedSharding`, which replaces `pmap` and `pjit`. The batch is split
over all devices. With `sharding="data"` each device holds the complete state, and the compiler
inserts the one reduction of gradients. With `sharding="fsdp"` (Zhao et al., 2023; ZeRO-3) each
large leaf of parameters, moments and EMA is split over the devices, too: the parameters of a layer
are gathered when it runs, and their gradients are reduced to the piece that a device keeps. With
`sharding="zero1"` (Rajbhandari et al., 2020) each device holds all parameters, but a piece of the
moments and of the EMA only: it updates its piece, and the new parameters are gathered.

A mesh has one axis, or two where the chips of a TPU slice are wired as a torus
(`devices.mesh_of`). All axes are axes of data. They matter for the order of collectives: the TPU
compiler scatters a sum along one axis only. If a gradient is to be split over both at once, the
compiler reduces it everywhere and cuts it up afterwards, which moves twice the bytes.
Therefore gradients are split along one axis after the other, and pieces gathered in reverse order.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# The name of the axis of a mesh with one axis, and the names of the axes of a torus.
DATA = "data"
AXES = ("x", "y")

SHARDINGS = ("data", "zero1", "fsdp")

# The first axis of each leaf in these modules counts layers; it is never split.
STACKS = ("encoder", "decoder")

# A leaf with at most this many elements per layer is not split: moving the pieces would cost more
# than the memory is worth.
SMALL = 2**12


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds completely."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array whose first axis is split over the devices."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def _piece(shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Returns a spec that splits the first axis that the number of devices divides.

    The largest axis would be worse: the query, key and value parts of one matrix lie along its
    last axis, and pieces that cut across these parts would be moved between devices again.
    """
    axes = [i for i, side in enumerate(shape) if side % mesh.size == 0]
    if mesh.size == 1 or not axes or np.prod(shape) <= SMALL:
        return PartitionSpec()
    return PartitionSpec(*[None] * axes[0], mesh.axis_names)


def _steps(mesh: Mesh, piece: PartitionSpec) -> list[NamedSharding]:
    """Returns the shardings from a whole array to a piece; each splits it over one more axis."""
    *unsplit, _ = piece
    return [
        NamedSharding(mesh, PartitionSpec(*unsplit, mesh.axis_names[: i + 1]))
        for i in range(len(mesh.axis_names))
    ]


def state_shardings(tree: Any, mesh: Mesh, sharding: str) -> Any:
    """Returns a sharding for each leaf of a tree.

    Args:
      tree: parameters, or a tree with their paths and shapes, such as moments.
      mesh: the devices.
      sharding: one of `SHARDINGS`: "data" replicates each leaf, the others split the large ones.
    """

    def of(path: Any, leaf: Any) -> NamedSharding:
        if sharding == "data":
            return replicated(mesh)
        names = {jax.tree_util.keystr((key,), simple=True) for key in path}
        if names.isdisjoint(STACKS):
            return NamedSharding(mesh, _piece(leaf.shape, mesh))
        return NamedSharding(mesh, PartitionSpec(None, *_piece(leaf.shape[1:], mesh)))

    return jax.tree_util.tree_map_with_path(of, tree)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _gathered(
    leaf: jax.Array, mesh: Mesh, spec: PartitionSpec, dtype: Any, in_pieces: bool
) -> jax.Array:
    """Returns a whole leaf in `dtype`; its gradient is split as `spec` says, in float32."""
    whole = leaf.astype(dtype)
    if not in_pieces:
        return whole
    # The first constraint keeps the compiler from moving the cast behind the gather.
    for sharding in (*reversed(_steps(mesh, spec)), replicated(mesh)):
        whole = jax.lax.with_sharding_constraint(whole, sharding)
    return whole


def _gathered_forward(
    leaf: jax.Array, mesh: Mesh, spec: PartitionSpec, dtype: Any, in_pieces: bool
) -> tuple[jax.Array, None]:
    return _gathered(leaf, mesh, spec, dtype, in_pieces), None


def _gathered_backward(
    mesh: Mesh, spec: PartitionSpec, dtype: Any, in_pieces: bool, _: None, gradient: jax.Array
) -> tuple[jax.Array]:
    for sharding in _steps(mesh, spec):
        gradient = jax.lax.with_sharding_constraint(gradient, sharding)
    return (gradient.astype(np.float32),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def gather(mesh: Mesh, dtype: Any, in_pieces: bool, tree: Any) -> Any:
    """Returns parameters with every split leaf gathered; their gradients are split again.

    With `sharding="zero1"` the parameters are whole, and only their gradients are split.

    The stacks of layers are not gathered here: the loop that runs them gathers one layer at a
    time.

    Args:
      mesh: the devices.
      dtype: what the model computes in; split leaves are cast to it before they are moved.
      in_pieces: whether the parameters are split.
      tree: parameters, sharded by `state_shardings`.
    """

    def of(path: Any, leaf: jax.Array) -> jax.Array:
        names = {jax.tree_util.keystr((key,), simple=True) for key in path}
        spec = _piece(leaf.shape, mesh)
        return (
            leaf
            if spec == PartitionSpec() or not names.isdisjoint(STACKS)
            else _gathered(leaf, mesh, spec, dtype, in_pieces)
        )

    return jax.tree_util.tree_map_with_path(of, tree)


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Returns a batch as global arrays split over the mesh, from this host's rows (NumPy)."""
    sharding = split(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def put_rows(rows: np.ndarray, mesh: Mesh) -> jax.Array:
    """Returns a global array split over the mesh, from rows that every host holds completely.

    Unlike `put_batch`, this works for any order of the devices in the mesh.
    """
    return jax.make_array_from_callback(rows.shape, split(mesh), lambda index: rows[index])


def abstract(tree: Any, shardings: Any) -> Any:
    """Returns shapes and dtypes of one tree with the shardings of another, to restore into."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )
