"""Devices: meshes, memory, the cache of compiled programs."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh

from ipt_jax.distributed.sharding import AXES, DATA, replicated, split
from ipt_jax.errors import UserError
from ipt_jax.versions import versions_of


def make_mesh(count: int = 0) -> Mesh:
    """Returns a mesh over the devices of this run (see `mesh_of`).

    Args:
      count: the number of devices; 0 for all devices of all hosts. Another number is possible with
        a single process only.

    Raises:
      ValueError: there are fewer devices, or several processes and `count` is not their number.
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
    return mesh_of(devices[:count] if count else devices)


def mesh_of(devices: Sequence[Any]) -> Mesh:
    """Returns a mesh over these devices, all of whose axes are axes of data.

    The chips of one TPU slice get two axes, as they are wired: 16 x 16 for v5e-256, 16 x 4 for 64
    chips of v5p in a cube; the docstring of `sharding` says why. Other devices are on one axis,
    "data".
    Several slices follow each other on it, and the devices of each are in the order of a ring.
    """
    # Since JAX 0.9 axes are explicit by default. A flax.linen convolution does not support them.
    auto = AxisType.Auto
    slices: dict[int, list[Any]] = {}
    for device in devices:
        slices.setdefault(getattr(device, "slice_index", None) or 0, []).append(device)
    if len(slices) == 1 and (grid := _torus(devices)) is not None:
        return Mesh(grid, AXES, axis_types=(auto, auto))
    rings = [
        jax.make_mesh((len(one),), (DATA,), devices=one, axis_types=(auto,))
        for _, one in sorted(slices.items())
    ]
    if len(rings) == 1:
        return rings[0]
    return Mesh(np.concatenate([ring.devices for ring in rings]), (DATA,), axis_types=(auto,))


def _torus(devices: Sequence[Any]) -> np.ndarray | None:
    """Returns the devices in the grid in which they are wired, as two dimensions.

    Of a grid of three dimensions, the first two become one. The compiler scatters a sum along each
    of two axes, but in three steps it reduces what is left after the first.

    Returns None if they have no coordinates, fill no grid, or have one dimension only.
    """
    if not all(hasattr(device, "coords") for device in devices):
        return None
    places = np.array([(*d.coords, getattr(d, "core_on_chip", 0)) for d in devices])
    places -= places.min(axis=0)
    sides = places.max(axis=0) + 1
    if np.prod(sides) != len(devices) or len(np.unique(places, axis=0)) != len(devices):
        return None
    grid = np.empty(sides, object)
    for place, device in zip(places, devices):
        grid[tuple(place)] = device
    *_, last = longer = [side for side in sides if side > 1] or [1]
    return grid.reshape(-1, last) if len(longer) > 1 else None


def connect_devices(barrier: Callable[[], object]) -> None:
    """Runs a first collective over all devices and one over all processes.

    The first collective connects the devices. Gloo and NCCL allow less time for that than the
    slowest host may need to compile, so it runs right after a barrier.

    Args:
      barrier: returns when all processes have called it.
    """
    mesh = make_mesh()
    barrier()
    ones = jax.make_array_from_callback(
        (mesh.size,), split(mesh), lambda index: np.ones(mesh.size, np.float32)[index]
    )
    jax.jit(jnp.sum, out_shardings=replicated(mesh))(ones).block_until_ready()
    multihost_utils.sync_global_devices("meet")


def topology_mesh(name: str, slices: int = 1) -> Mesh:
    """Returns a mesh over the chips of TPU slices that this machine does not have.

    A program that is lowered for it can be compiled, but not run. Call this before anything else
    touches a device: it makes JAX ignore accelerators.

    Args:
      name: a topology, such as "v5e:16x16".
      slices: the number of slices.

    Raises:
      ModuleNotFoundError: the package libtpu, which contains the compiler, is not installed.
      ValueError: libtpu does not know the topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ModuleNotFoundError("No module named 'libtpu'", name="libtpu")
    jax.config.update("jax_platforms", "cpu")
    # libtpu must not look for a TPU's metadata server, and not refuse a second process.
    for key, value in (
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
        # Any values do here: without them, libtpu queries the host.
        ("TPU_ACCELERATOR_TYPE", "v5litepod-1"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
        ("TPU_STDERR_LOG_LEVEL", "3"),
    ):
        os.environ.setdefault(key, value)
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if name.startswith("v4:"):
        # Cloud TPU presents the two cores of a v4 chip as one device.
        options["chip_config_name"] = "megacore"
    try:
        devices = topologies.get_topology_desc(
            platform="tpu", topology_name=name, **options
        ).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"libtpu does not know {name!r} x {slices}: {error}") from error
    return mesh_of(devices)


# PCI devices that are TPUs of v2 to v6e (jax/_src/hardware_utils.py). Google's network cards have
# the same vendor.
_TPU_VENDOR = "0x1ae0"
_TPU_DEVICES = ("0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f")


def unused_accelerator(root: str = "/") -> str:
    """Returns "TPU" or "NVIDIA GPU" if this machine has one that jax does not use, else "".

    Args:
      root: the folder that has `dev` and `sys`.
    """
    if jax.default_backend() != "cpu":
        return ""
    if pathlib.Path(root, "dev/nvidiactl").exists():
        return "NVIDIA GPU"
    for device in pathlib.Path(root, "sys/bus/pci/devices").glob("*"):
        with contextlib.suppress(OSError):
            vendor, kind = ((device / part).read_text().strip() for part in ("vendor", "device"))
            if vendor == _TPU_VENDOR and kind in _TPU_DEVICES:
                return "TPU"
    return ""


def check_accelerator(root: str = "/") -> str:
    """Returns a sentence that names the devices that jax uses; `root` as above.

    Raises:
      UserError: this machine has an accelerator that jax does not use, because its plug-in is
        missing or has another version than jax; the message says what to install.
    """
    unused = unused_accelerator(root)
    if not unused:
        found = jax.devices()
        return f"jax {jax.__version__} uses {len(found)} x {found[0].device_kind}"
    plugins = ("libtpu",) if unused == "TPU" else ("jax-cuda13-plugin", "jax-cuda12-plugin")
    installed = versions_of(*plugins)
    extra = "tpu" if unused == "TPU" else "cuda12" if "jax-cuda12-plugin" in installed else "cuda13"
    there = ", ".join(f"{name} {version}" for name, version in installed.items()) or "not installed"
    raise UserError(
        f"jax {jax.__version__} does not use this machine's {unused}; its plug-in is {there}. "
        f"Install both in one version, and restart Python: pip install -U "
        f"'jax[{extra}]=={jax.__version__}'"
    )


def peak_memory() -> int:
    """Returns the peak of bytes in use on the first device; 0 if the platform does not count."""
    return int((jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0))


def cache_programs(folder: str) -> None:
    """Keeps compiled programs in a folder, so that a resumed run does not compile them again.

    The environment variable JAX_COMPILATION_CACHE_DIR takes precedence over `folder`.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", folder)


def is_main() -> bool:
    """Returns whether this is process 0, which writes logs and images."""
    return jax.process_index() == 0


def describe() -> Mapping[str, Any]:
    """Returns platform, kind and number of devices, and the number of processes, for the log."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
    }
