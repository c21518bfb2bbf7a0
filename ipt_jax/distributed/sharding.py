"""Devices: distributed start, mesh, shardings, barriers. Every version-sensitive call of jax is
here.

What `pmap` and `pjit` stood for is `jax.jit` with `NamedSharding`: the batch is split over one
axis, "data". With `sharding="data"` the state is whole on each device, and the compiler puts in the
one reduction of gradients. With "fsdp" (Zhao et al., 2023; ZeRO-3) each large leaf of parameters,
moments and average is split over the same axis: a layer's parameters are gathered when it runs, and
their gradients are reduced to the piece that a device keeps.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

DATA = "data"

SHARDINGS = ("data", "fsdp")

# Their leaves have an axis of layers in front, which is never split
STACKS = ("encoder", "decoder")

# Elements of a layer's leaf up to which it stays whole: moving it would cost more than it takes
SMALL = 2**12


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def _piece(shape: tuple[int, ...], devices: int) -> PartitionSpec:
    """The first axis that the devices divide, split over them.

    Not the largest: the query, key and value parts of one matrix lie along its last axis, and
      pieces that cut across
    them would have to be moved between devices again.
    """
    axes = [i for i, side in enumerate(shape) if side % devices == 0]
    if devices == 1 or not axes or np.prod(shape) <= SMALL:
        return PartitionSpec()
    return PartitionSpec(*[None] * axes[0], DATA)


def state_shardings(tree: Any, mesh: Mesh, sharding: str) -> Any:
    """A sharding for each leaf of parameters or of what has their shapes: whole ("data"), or in
    pieces ("fsdp").
    """

    def of(path: Any, leaf: Any) -> NamedSharding:
        if sharding == "data":
            return replicated(mesh)
        names = {jax.tree_util.keystr((key,), simple=True) for key in path}
        if names.isdisjoint(STACKS):
            return NamedSharding(mesh, _piece(leaf.shape, mesh.size))
        return NamedSharding(mesh, PartitionSpec(None, *_piece(leaf.shape[1:], mesh.size)))

    return jax.tree_util.tree_map_with_path(of, tree)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gathered(leaf: jax.Array, mesh: Mesh, spec: PartitionSpec, dtype: Any) -> jax.Array:
    # The piece is cast before it travels, and held to its place so that the compiler cannot swap
    # the two.
    piece = jax.lax.with_sharding_constraint(leaf.astype(dtype), NamedSharding(mesh, spec))
    return jax.lax.with_sharding_constraint(piece, replicated(mesh))


def _gathered_forward(
    leaf: jax.Array, mesh: Mesh, spec: PartitionSpec, dtype: Any
) -> tuple[jax.Array, None]:
    return _gathered(leaf, mesh, spec, dtype), None


def _gathered_backward(
    mesh: Mesh, spec: PartitionSpec, dtype: Any, _: None, gradient: jax.Array
) -> tuple[jax.Array]:
    return (
        jax.lax.with_sharding_constraint(gradient, NamedSharding(mesh, spec)).astype(np.float32),
    )


_gathered.defvjp(_gathered_forward, _gathered_backward)


def gather(mesh: Mesh, dtype: Any, tree: Any) -> Any:
    """Parameters in pieces -> whole, the large ones in `dtype`, which they are computed in;
    gradients come back in pieces.

    Stacks are left alone: their layers are gathered one at a time, in the loop that runs them.
    """

    def of(path: Any, leaf: jax.Array) -> jax.Array:
        names = {jax.tree_util.keystr((key,), simple=True) for key in path}
        spec = _piece(leaf.shape, mesh.size)
        return (
            leaf
            if spec == PartitionSpec() or not names.isdisjoint(STACKS)
            else _gathered(leaf, mesh, spec, dtype)
        )

    return jax.tree_util.tree_map_with_path(of, tree)


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """This host's rows (numpy) of a batch -> global arrays split over the mesh."""
    sharding = split(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def put_rows(rows: np.ndarray, mesh: Mesh) -> jax.Array:
    """Rows that every host holds whole -> a global array split over the mesh, in whatever order its
    devices are.
    """
    return jax.make_array_from_callback(rows.shape, split(mesh), lambda index: rows[index])


def abstract(tree: Any, shardings: Any) -> Any:
    """Shapes and dtypes of a tree with the shardings of another: the target of a restore."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )
