"""The start of a run on several processes: which one this is, roll call, jax.distributed.

What decides, in this order: flags (`--coordinator`, `--num-processes`, `--process-id`), environment variables of the same
names (IPT_COORDINATOR, ... or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID), Slurm's step, a TPU pod on GKE
(also several slices), a TPU VM. A laptop shows none of these signs, and then no network is touched.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

from ipt_jax import log
from ipt_jax.distributed import process_group as hosts
from ipt_jax.errors import RunError, UserError

START_TIMEOUT = 300.0  # seconds
HEARTBEAT = 100  # seconds of silence after which jax aborts a process; the line between them is faster


class StartError(UserError):
    """A start on several processes that cannot work as it was asked for; the message names the flag."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Which process of how many this is, and where process 0 listens (`HOST:PORT`; jax's service there, ours beside it)."""

    coordinator: str
    count: int
    index: int
    local_devices: Sequence[int] | None = None  # the only ones to use, as Slurm gives each task a GPU of its own

    @property
    def line(self) -> tuple[str, int]:
        """Where our own connections go: the next port."""
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port) + (1 if int(port) < 65535 else -1)


_FLAGS = (
    ("coordinator", ("IPT_COORDINATOR", "JAX_COORDINATOR_ADDRESS"), "HOST:PORT", "where process 0 listens"),
    ("num-processes", ("IPT_NUM_PROCESSES", "JAX_NUM_PROCESSES"), "N", "processes of the run; 1 = this one alone"),
    ("process-id", ("IPT_PROCESS_ID", "JAX_PROCESS_ID"), "I", "which of them this is, from 0"),
    ("start-timeout", ("IPT_START_TIMEOUT",), "SECONDS", f"wait that long for all to come ({START_TIMEOUT:.0f})"),
)
_current = hosts.Line()


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags to a command that trains."""
    about = "TPU pods, GKE and Slurm are recognised; elsewhere, give all three, as flags or as environment variables"
    group = parser.add_argument_group("several processes", about)
    for name, variables, metavar, text in _FLAGS:
        group.add_argument(f"--{name}", default="", metavar=metavar, help=f"{text} [{variables[0]}]")
    about = "exit code when a signal has stopped the run, saved, before its end (0); for launchers that start it again"
    group.add_argument("--stopped-code", type=int, default=0, metavar="N", help=about)


def line() -> hosts.Line:
    """The line to the other processes; alone, if `together` is not under way."""
    return _current


def find(options: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> Place | None:
    """This process's place among several, or None for a process alone.

    Raises:
      StartError: flags that are not whole or do not fit.
      RunError: a cluster whose description cannot be read.
    """
    given, told = {}, {}
    for name, variables, _, _ in _FLAGS[:3]:
        given[name] = getattr(options, name.replace("-", "_"), "")
        told[name] = given[name] or next((environment[v] for v in variables if environment.get(v)), "")
    # A lone JAX_COORDINATOR_ADDRESS is set by XPK's images and the like, beside a cluster that is recognised.
    ours = any(given.values()) or any(environment.get(v[0]) for _, v, _, _ in _FLAGS[:3])
    if told["num-processes"] == "1" and not told["process-id"].strip("0"):
        return None
    if all(told.values()):
        return _explicit(told)
    if ours:
        missing = ", ".join(f"--{name}" for name, value in told.items() if not value)
        raise StartError(
            f"a run on several processes needs --coordinator, --num-processes and --process-id; missing: {missing}"
        )
    kind = _cluster(environment)
    return _detected(kind) if kind else None


def _explicit(told: Mapping[str, str]) -> Place:
    host, colon, port = told["coordinator"].rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise StartError(f"--coordinator must be HOST:PORT, such as 10.0.0.2:8476, not {told['coordinator']!r}")
    for name in ("num-processes", "process-id"):
        if not told[name].isdigit():
            raise StartError(f"--{name} must be a number from 0, not {told[name]!r}")
    count, index = int(told["num-processes"]), int(told["process-id"])
    if index >= count:
        raise StartError(f"--process-id={index} must be below --num-processes={count}: they are counted from 0")
    return Place(told["coordinator"], count, index)


def _cluster(environment: Mapping[str, str]) -> str:
    """jax's name for the cluster whose signs there are, or "". No network, but for a TPU VM's metadata server."""
    if "SLURM_STEP_NODELIST" in environment and "SLURM_PROCID" in environment:
        return "slurm" if environment.get("SLURM_NTASKS", "1") != "1" else ""
    names = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES") or ""
    slices = environment.get("MEGASCALE_NUM_SLICES") or "1"
    if names:
        return "gketpu" if "," in names or slices != "1" else ""
    if environment.get("TPU_SKIP_MDS_QUERY"):
        return ""
    from jax._src.cloud_tpu_init import running_in_cloud_tpu_vm  # libtpu is there, and TPUs are on the PCI bus

    if not running_in_cloud_tpu_vm:
        return ""
    server = environment.get("GCE_METADATA_IP", "metadata.google.internal")
    with contextlib.suppress(OSError), socket.create_connection((server, 80), timeout=3):
        return "gcetpu"
    return ""  # TPUs of a notebook service


def _detected(kind: str) -> Place | None:
    from jax._src import clusters

    try:
        address, count, index, local = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, kind, 60
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise RunError(f"this looks like {kind}, but its processes cannot be told: {error}; give --coordinator, "
                       "--num-processes and --process-id, or --num-processes=1 to go on alone") from error  # fmt: skip
    if address is None or count is None or index is None or count == 1:
        return None
    return Place(address, count, index, local)


@contextlib.contextmanager
def together(options: argparse.Namespace) -> Iterator[hosts.Line]:
    """While it lasts, jax sees the devices of all processes, and `line()` is the line between them.

    To be entered before jax has started its devices. An error that ends it is told to the other processes, which end
    with it; then, and after an error that came from another, this process is left by `os._exit`, since jax's own end would
    wait for processes that do not come: so it is for the command line, not for a library.

    Raises:
      StartError, Lost: as `find` and `hosts.connect`.
    """
    global _current
    place = find(options)
    if place is None:
        yield _current
        return
    limit = _limit(options)
    _current = hosts.connect(place.line, place.index, place.count, limit)
    log.for_process(place.index)
    try:
        _start(place, limit)
        from ipt_jax.distributed import sharding as partition  # late: jax takes a second to import

        partition.meet(lambda: _current.gather("devices", None))
        yield _current
        _current.leave()
    except BaseException as error:
        _end(_current, error)


def _end(line: hosts.Line, error: BaseException) -> NoReturn:
    ours = isinstance(error, (RunError, UserError, OSError, KeyboardInterrupt))
    # What goes wrong here when another process goes: jax's collectives raise what they like, orbax a failed save.
    elsewhere = line.trouble(0.0 if isinstance(error, (UserError, hosts.Lost, KeyboardInterrupt)) else 3.0)
    text = elsewhere or ("interrupted" if isinstance(error, KeyboardInterrupt) else str(error))
    if not ours and not elsewhere:
        traceback.print_exception(error)
        text = f"{type(error).__name__}: {text}"
    print(f"ipt: {text}", file=sys.stderr)
    line.fault(text)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2 if isinstance(error, UserError) else 1)


def _limit(options: argparse.Namespace) -> float:
    text = options.start_timeout or os.environ.get("IPT_START_TIMEOUT", "") or str(START_TIMEOUT)
    try:
        limit = float(text)
    except ValueError:
        limit = 0.0
    if not 0 < limit < 1e6:
        raise StartError(f"--start-timeout must be a number of seconds above 0, not {text!r}")
    return limit


def _start(place: Place, limit: float) -> None:
    """jax.distributed: all processes are known to be there, so it has no one to wait for."""
    port = int(place.coordinator.rpartition(":")[2])
    if place.index == 0:
        try:
            socket.create_server(("", port)).close()
        except OSError as error:
            raise hosts.Lost(f"process 0 cannot listen on port {port}: {error.strerror}; name another port") from None
    import jax

    # Its handler of SIGTERM would take the place of ours (meter.StopSignals), which serves SIGINT, too.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        place.coordinator,
        place.count,
        place.index,
        local_device_ids=place.local_devices,
        cluster_detection_method="deactivate",
        initialization_timeout=max(60, int(limit)),
        heartbeat_timeout_seconds=HEARTBEAT,
        shutdown_timeout_seconds=60,
    )
