"""Which process of a run this is."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import socket
from collections.abc import Mapping, Sequence

from ipt_jax.errors import RunError, StartError

# Seconds
START_TIMEOUT = 300.0


@dataclasses.dataclass(frozen=True)
class ProcessSpec:
    """Which process of how many this is, and where process 0 listens (`HOST:PORT`; jax's service
    there, ours beside it).
    """

    coordinator: str
    count: int
    index: int
    # The only ones to use, as Slurm gives each task a GPU of its own
    local_devices: Sequence[int] | None = None

    @property
    def line(self) -> tuple[str, int]:
        """Where our own connections go: the next port."""
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port) + (1 if int(port) < 65535 else -1)


FLAGS = (
    (
        "coordinator",
        ("IPT_COORDINATOR", "JAX_COORDINATOR_ADDRESS"),
        "HOST:PORT",
        "where process 0 listens",
    ),
    (
        "num-processes",
        ("IPT_NUM_PROCESSES", "JAX_NUM_PROCESSES"),
        "N",
        "processes of the run; 1 = this one alone",
    ),
    ("process-id", ("IPT_PROCESS_ID", "JAX_PROCESS_ID"), "I", "which of them this is, from 0"),
    (
        "start-timeout",
        ("IPT_START_TIMEOUT",),
        "SECONDS",
        f"wait that long for all to come ({START_TIMEOUT:.0f})",
    ),
)


def find_process(
    options: argparse.Namespace, environment: Mapping[str, str] = os.environ
) -> ProcessSpec | None:
    """This process's place among several, or None for a process alone.

    Raises:
      StartError: flags that are not whole or do not fit.
      RunError: a cluster whose description cannot be read.
    """
    given, told = {}, {}
    for name, variables, _, _ in FLAGS[:3]:
        given[name] = getattr(options, name.replace("-", "_"), "")
        told[name] = given[name] or next(
            (environment[v] for v in variables if environment.get(v)), ""
        )
    # A lone JAX_COORDINATOR_ADDRESS is set by XPK's images and the like, beside a cluster that is
    # recognised.
    ours = any(given.values()) or any(environment.get(v[0]) for _, v, _, _ in FLAGS[:3])
    if told["num-processes"] == "1" and not told["process-id"].strip("0"):
        return None
    if all(told.values()):
        return _explicit(told)
    if ours:
        missing = ", ".join(f"--{name}" for name, value in told.items() if not value)
        raise StartError(
            "a run on several processes needs --coordinator, --num-processes and --process-id; "
            f"missing: {missing}"
        )
    kind = _cluster(environment)
    return _detected(kind) if kind else None


def _explicit(told: Mapping[str, str]) -> ProcessSpec:
    host, colon, port = told["coordinator"].rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise StartError(
            f"--coordinator must be HOST:PORT, such as 10.0.0.2:8476, not {told['coordinator']!r}"
        )
    for name in ("num-processes", "process-id"):
        if not told[name].isdigit():
            raise StartError(f"--{name} must be a number from 0, not {told[name]!r}")
    count, index = int(told["num-processes"]), int(told["process-id"])
    if index >= count:
        raise StartError(
            f"--process-id={index} must be below --num-processes={count}: they are counted from 0"
        )
    return ProcessSpec(told["coordinator"], count, index)


def _cluster(environment: Mapping[str, str]) -> str:
    """jax's name for the cluster whose signs there are, or "". No network, but for a TPU VM's
    metadata server.
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
    # Libtpu is there, and TPUs are on the PCI bus
    from jax._src.cloud_tpu_init import running_in_cloud_tpu_vm

    if not running_in_cloud_tpu_vm:
        return ""
    server = environment.get("GCE_METADATA_IP", "metadata.google.internal")
    with contextlib.suppress(OSError), socket.create_connection((server, 80), timeout=3):
        return "gcetpu"
    # TPUs of a notebook service
    return ""


def _detected(kind: str) -> ProcessSpec | None:
    from jax._src import clusters

    try:
        address, count, index, local = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, kind, 60
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise RunError(
            f"this looks like {kind}, but its processes cannot be told: {error}; give "
            "--coordinator, "
            "--num-processes and --process-id, or --num-processes=1 to go on alone"
        ) from error
    if address is None or count is None or index is None or count == 1:
        return None
    return ProcessSpec(address, count, index, local)
