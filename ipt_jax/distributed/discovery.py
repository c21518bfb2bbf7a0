"""Which process of a run this is: flags, environment variables, Slurm, GKE, a TPU VM."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from collections.abc import Mapping, Sequence

from ipt_jax.errors import RunError, StartError

# Seconds to wait for all processes by default.
START_TIMEOUT = 300.0

# The environment variables that stand for each flag. The first of each is this package's own.
VARIABLES: dict[str, tuple[str, ...]] = {
    "coordinator": ("IPT_COORDINATOR", "JAX_COORDINATOR_ADDRESS"),
    "num-processes": ("IPT_NUM_PROCESSES", "JAX_NUM_PROCESSES"),
    "process-id": ("IPT_PROCESS_ID", "JAX_PROCESS_ID"),
    "start-timeout": ("IPT_START_TIMEOUT",),
}


@dataclasses.dataclass(frozen=True)
class StartOptions:
    """The flags `--coordinator`, `--num-processes`, `--process-id` and `--start-timeout`.

    All are text as it was typed; "" stands for a flag that was not given.
    """

    coordinator: str = ""
    num_processes: str = ""
    process_id: str = ""
    start_timeout: str = ""


@dataclasses.dataclass(frozen=True)
class ProcessSpec:
    """Which process of how many this is, and where process 0 listens.

    Attributes:
      coordinator: `HOST:PORT` of JAX's coordination service, on the host of process 0.
      count: the number of processes.
      index: this process, from 0.
      local_devices: the only devices to use, as Slurm gives each task a GPU of its own; None for
        all.
    """

    coordinator: str
    count: int
    index: int
    local_devices: Sequence[int] | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the `ProcessGroup`: the port after the one of JAX's service."""
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port) + (1 if int(port) < 65535 else -1)


def find_process(
    options: StartOptions, environment: Mapping[str, str] = os.environ
) -> ProcessSpec | None:
    """Returns which of several processes this is, or None for a process alone.

    Flags come first, then environment variables, then the signs of a cluster.

    Raises:
      StartError: the flags are incomplete or contradict each other.
      RunError: this looks like a cluster, but its description cannot be read.
    """
    flags = {
        "coordinator": options.coordinator,
        "num-processes": options.num_processes,
        "process-id": options.process_id,
    }
    given = {
        name: flag or next((environment[v] for v in VARIABLES[name] if environment.get(v)), "")
        for name, flag in flags.items()
    }
    if given["num-processes"] == "1" and not given["process-id"].strip("0"):
        return None
    if all(given.values()):
        return _explicit(given)
    # JAX_COORDINATOR_ADDRESS alone asks for nothing: images of XPK and others set it on clusters
    # that are recognised below.
    asked = any(flags.values()) or any(environment.get(VARIABLES[name][0]) for name in flags)
    if asked:
        missing = ", ".join(f"--{name}" for name, value in given.items() if not value)
        raise StartError(
            "a run on several processes needs --coordinator, --num-processes and --process-id; "
            f"missing: {missing}"
        )
    kind = _cluster(environment)
    return _detected(kind) if kind else None


def start_timeout(options: StartOptions, environment: Mapping[str, str] = os.environ) -> float:
    """Returns the seconds to wait for all processes.

    Raises:
      StartError: `--start-timeout` is not a number of seconds above 0.
    """
    variable = VARIABLES["start-timeout"][0]
    text = options.start_timeout or environment.get(variable, "") or str(START_TIMEOUT)
    try:
        limit = float(text)
    except ValueError:
        limit = 0.0
    if not 0 < limit < 1e6:
        raise StartError(f"--start-timeout must be a number of seconds above 0, not {text!r}")
    return limit


def _explicit(given: Mapping[str, str]) -> ProcessSpec:
    """Returns the process that flags or variables describe. Raises StartError if they are wrong."""
    host, colon, port = given["coordinator"].rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise StartError(
            f"--coordinator must be HOST:PORT, such as 10.0.0.2:8476, not {given['coordinator']!r}"
        )
    for name in ("num-processes", "process-id"):
        if not given[name].isdigit():
            raise StartError(f"--{name} must be a number from 0, not {given[name]!r}")
    count, index = int(given["num-processes"]), int(given["process-id"])
    if index >= count:
        raise StartError(
            f"--process-id={index} must be below --num-processes={count}: process ids start at 0"
        )
    return ProcessSpec(given["coordinator"], count, index)


def _cluster(environment: Mapping[str, str]) -> str:
    """Returns JAX's name for the kind of cluster that this host belongs to, or "" for none.

    The network is used only to ask for the metadata server of a TPU VM.
    """
    if "SLURM_STEP_NODELIST" in environment and "SLURM_PROCID" in environment:
        return "slurm" if environment.get("SLURM_NTASKS", "1") != "1" else ""
    names = (
        environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES") or ""
    )
    slices = environment.get("MEGASCALE_NUM_SLICES") or "1"
    if names:
        return "gketpu" if "," in names or slices != "1" else ""
    if environment.get("TPU_SKIP_MDS_QUERY"):
        return ""
    # True if libtpu is installed and TPUs are on the PCI bus.
    from jax._src.cloud_tpu_init import running_in_cloud_tpu_vm

    if not running_in_cloud_tpu_vm:
        return ""
    server = environment.get("GCE_METADATA_IP", "metadata.google.internal")
    with contextlib.suppress(OSError), socket.create_connection((server, 80), timeout=3):
        return "gcetpu"
    # Notebook services have TPUs without a metadata server.
    return ""


def _detected(kind: str) -> ProcessSpec | None:
    """Returns the process that JAX's detection of a cluster finds, or None for a single one.

    Raises:
      RunError: the detection fails.
    """
    from jax._src import clusters

    try:
        address, count, index, local = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, kind, 60
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise RunError(
            f"this looks like a cluster of kind {kind!r}, but its processes cannot be found: "
            f"{error}; give --coordinator, --num-processes and --process-id, or --num-processes=1 "
            "to train with this process alone"
        ) from error
    if address is None or count is None or index is None or count == 1:
        return None
    return ProcessSpec(address, count, index, local)
