"""Devices: the mesh over them, memory, compiled programs."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh

from ipt_jax.distributed.sharding import DATA, replicated, split


def make_mesh(count: int = 0) -> Mesh:
    """A mesh with one data axis over all devices of all hosts, or over the first `count` of a
    single host.

    Raises:
      ValueError: more devices asked for than there are, or some of those of several hosts.
    """
    devices = jax.devices()
    if count not in (0, len(devices)) and jax.process_count() > 1:
        raise ValueError(
            f"devices={count} asked for, but {jax.process_count()} processes take part with all "
            f"their {len(devices)}: use 0"
        )
    if count > len(devices):
        raise ValueError(
            f"devices={count} asked for, but there are {len(devices)} ({devices[0].platform}); use "
            "fewer, or 0 for all"
        )
    devices = devices[:count] if count else devices
    return mesh_of(devices)


def mesh_of(devices: Sequence[Any]) -> Mesh:
    """One data axis over these devices, in the order of a ring within each TPU slice, slice after
    slice.
    """
    slices: dict[int, list[Any]] = {}
    for device in devices:
        slices.setdefault(getattr(device, "slice_index", None) or 0, []).append(device)
    # Explicit axes, the default since jax 0.9, do not go through a linen convolution -> patches ->
    # attention.
    auto = dict(axis_types=(AxisType.Auto,))
    rings = [
        jax.make_mesh((len(one),), (DATA,), devices=one, **auto)
        for _, one in sorted(slices.items())
    ]
    return (
        rings[0]
        if len(rings) == 1
        else Mesh(np.concatenate([ring.devices for ring in rings]), (DATA,), **auto)
    )


def meet(barrier: Callable[[], object]) -> None:
    """A first collective over all devices and one over all processes, right after a barrier.

    They connect the devices, for which gloo and NCCL give each other less time than hosts that
    compile may take.
    """
    mesh = make_mesh()
    barrier()
    ones = jax.make_array_from_callback(
        (mesh.size,), split(mesh), lambda index: np.ones(mesh.size, np.float32)[index]
    )
    jax.jit(jnp.sum, out_shardings=replicated(mesh))(ones).block_until_ready()
    multihost_utils.sync_global_devices("meet")


def topology_mesh(name: str, slices: int = 1) -> Mesh:
    """A mesh over the chips of TPU slices that are not here, such as "v5e:16x16": what is lowered
    for it can be compiled.

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
        # Of the host, which is none: only to be asked no further
        ("TPU_ACCELERATOR_TYPE", "v5litepod-1"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
        ("TPU_STDERR_LOG_LEVEL", "3"),
    ):
        os.environ.setdefault(key, value)
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if name.startswith("v4:"):
        # A chip's two cores as one device, as Cloud TPU sets them up
        options["chip_config_name"] = "megacore"
    try:
        devices = topologies.get_topology_desc(
            platform="tpu", topology_name=name, **options
        ).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"libtpu does not know {name!r} x {slices}: {error}") from error
    return mesh_of(devices)


def peak_memory() -> int:
    """Bytes that were in use on the first device at most, 0 where the platform does not count."""
    return int((jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0))


def cache_programs(folder: str) -> None:
    """Keeps compiled programs in a folder, so that a run that is started again need not compile
    them again.

    $JAX_COMPILATION_CACHE_DIR, where it is set, names the folder instead.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", folder)


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
