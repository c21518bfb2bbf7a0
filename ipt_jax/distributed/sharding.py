"""Devices: distributed start, mesh, shardings, barriers. Every version-sensitive call of jax is here.

What `pmap` and `pjit` stood for is `jax.jit` with `NamedSharding`: the batch is split over one axis, "data". With
`sharding="data"` the state is whole on each device, and the compiler puts in the one reduction of gradients. With
"fsdp" (Zhao et al., 2023; ZeRO-3) each large leaf of parameters, moments and average is split over the same axis: a
layer's parameters are gathered when it runs, and their gradients are reduced to the piece that a device keeps.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA = "data"
SHARDINGS = ("data", "fsdp")
STACKS = ("encoder", "decoder")  # their leaves have an axis of layers in front, which is never split
SMALL = 2**12  # elements of a layer's leaf up to which it stays whole: moving it would cost more than it takes


def make_mesh(count: int = 0) -> Mesh:
    """A mesh with one data axis over all devices of all hosts, or over the first `count` of a single host.

    Raises:
      ValueError: more devices asked for than there are, or some of those of several hosts.
    """
    devices = jax.devices()
    if count not in (0, len(devices)) and jax.process_count() > 1:
        raise ValueError(
            f"devices={count} asked for, but {jax.process_count()} processes take part with all their {len(devices)}: use 0"
        )
    if count > len(devices):
        raise ValueError(
            f"devices={count} asked for, but there are {len(devices)} ({devices[0].platform}); use fewer, or 0 for all"
        )
    devices = devices[:count] if count else devices
    return mesh_of(devices)


def mesh_of(devices: Sequence[Any]) -> Mesh:
    """One data axis over these devices, in the order of a ring within each TPU slice, slice after slice."""
    slices: dict[int, list[Any]] = {}
    for device in devices:
        slices.setdefault(getattr(device, "slice_index", None) or 0, []).append(device)
    # Explicit axes, the default since jax 0.9, do not go through a linen convolution -> patches -> attention.
    auto = dict(axis_types=(AxisType.Auto,))
    rings = [jax.make_mesh((len(one),), (DATA,), devices=one, **auto) for _, one in sorted(slices.items())]
    return rings[0] if len(rings) == 1 else Mesh(np.concatenate([ring.devices for ring in rings]), (DATA,), **auto)


def meet(barrier: Callable[[], object]) -> None:
    """A first collective over all devices and one over all processes, right after a barrier.

    They connect the devices, for which gloo and NCCL give each other less time than hosts that compile may take.
    """
    mesh = make_mesh()
    barrier()
    ones = jax.make_array_from_callback((mesh.size,), split(mesh), lambda index: np.ones(mesh.size, np.float32)[index])
    jax.jit(jnp.sum, out_shardings=replicated(mesh))(ones).block_until_ready()
    multihost_utils.sync_global_devices("meet")


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def _piece(shape: tuple[int, ...], devices: int) -> PartitionSpec:
    """The first axis that the devices divide, split over them.

    Not the largest: the query, key and value parts of one matrix lie along its last axis, and pieces that cut across
    them would have to be moved between devices again.
    """
    axes = [i for i, side in enumerate(shape) if side % devices == 0]
    if devices == 1 or not axes or np.prod(shape) <= SMALL:
        return PartitionSpec()
    return PartitionSpec(*[None] * axes[0], DATA)


def state_shardings(tree: Any, mesh: Mesh, sharding: str) -> Any:
    """A sharding for each leaf of parameters or of what has their shapes: whole ("data"), or in pieces ("fsdp")."""

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
    # The piece is cast before it travels, and held to its place so that the compiler cannot swap the two.
    piece = jax.lax.with_sharding_constraint(leaf.astype(dtype), NamedSharding(mesh, spec))
    return jax.lax.with_sharding_constraint(piece, replicated(mesh))


def _gathered_forward(leaf: jax.Array, mesh: Mesh, spec: PartitionSpec, dtype: Any) -> tuple[jax.Array, None]:
    return _gathered(leaf, mesh, spec, dtype), None


def _gathered_backward(mesh: Mesh, spec: PartitionSpec, dtype: Any, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.with_sharding_constraint(gradient, NamedSharding(mesh, spec)).astype(np.float32),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def gather(mesh: Mesh, dtype: Any, tree: Any) -> Any:
    """Parameters in pieces -> whole, the large ones in `dtype`, which they are computed in; gradients come back in pieces.

    Stacks are left alone: their layers are gathered one at a time, in the loop that runs them.
    """

    def of(path: Any, leaf: jax.Array) -> jax.Array:
        names = {jax.tree_util.keystr((key,), simple=True) for key in path}
        spec = _piece(leaf.shape, mesh.size)
        return leaf if spec == PartitionSpec() or not names.isdisjoint(STACKS) else _gathered(leaf, mesh, spec, dtype)

    return jax.tree_util.tree_map_with_path(of, tree)


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """This host's rows (numpy) of a batch -> global arrays split over the mesh."""
    sharding = split(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def put_rows(rows: np.ndarray, mesh: Mesh) -> jax.Array:
    """Rows that every host holds whole -> a global array split over the mesh, in whatever order its devices are."""
    return jax.make_array_from_callback(rows.shape, split(mesh), lambda index: rows[index])


def abstract(tree: Any, shardings: Any) -> Any:
    """Shapes and dtypes of a tree with the shardings of another: the target of a restore."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def topology_mesh(name: str, slices: int = 1) -> Mesh:
    """A mesh over the chips of TPU slices that are not here, such as "v5e:16x16": what is lowered for it can be compiled.

    Call it before anything else touches a device: jax is told to leave accelerators alone.

    Raises:
      ModuleNotFoundError: the package libtpu, which holds the compiler, is not installed.
      ValueError: libtpu knows no such slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ModuleNotFoundError("No module named 'libtpu'", name="libtpu")
    jax.config.update("jax_platforms", "cpu")
    # libtpu is not to look for a TPU's metadata server, nor to mind another process that uses it.
    for key, value in (
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
        ("TPU_ACCELERATOR_TYPE", "v5litepod-1"),  # of the host, which is none: only to be asked no further
        ("TPU_WORKER_HOSTNAMES", "localhost"),
        ("TPU_STDERR_LOG_LEVEL", "3"),
    ):
        os.environ.setdefault(key, value)
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if name.startswith("v4:"):
        options["chip_config_name"] = "megacore"  # a chip's two cores as one device, as Cloud TPU sets them up
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"libtpu does not know {name!r} x {slices}: {error}") from error
    return mesh_of(devices)


def peak_memory() -> int:
    """Bytes that were in use on the first device at most, 0 where the platform does not count."""
    return int((jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0))


def cache_programs(folder: str) -> None:
    """Keeps compiled programs in a folder, so that a run that is started again need not compile them again.

    $JAX_COMPILATION_CACHE_DIR, where it is set, names the folder instead.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", folder)


def versions(*packages: str) -> dict[str, str]:
    """Versions of installed packages."""
    return {name: metadata.version(name) for name in packages}


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
