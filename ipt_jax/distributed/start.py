"""The start of a run on several processes: which one this is, roll call, jax.distributed.

What decides, in this order: flags (`--coordinator`, `--num-processes`, `--process-id`), environment
variables of the same names (IPT_COORDINATOR, ... or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES,
JAX_PROCESS_ID), Slurm's step, a TPU pod on GKE (also several slices), a TPU VM. A laptop shows none
of these signs, and then no network is touched.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from typing import NoReturn

from ipt_jax import errors, log
from ipt_jax.distributed import process_group as hosts
from ipt_jax.distributed import rendezvous
from ipt_jax.distributed.discovery import FLAGS, START_TIMEOUT, ProcessSpec, find_process
from ipt_jax.errors import RunError, StartError, UserError

# Seconds of silence after which jax aborts a process; the line between them is faster
HEARTBEAT = 100

_current = hosts.ProcessGroup()


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags to a command that trains."""
    about = "TPU pods, GKE and Slurm are recognised; elsewhere, give all three, as flags or as environment variables"
    group = parser.add_argument_group("several processes", about)
    for name, variables, metavar, text in FLAGS:
        group.add_argument(
            f"--{name}", default="", metavar=metavar, help=f"{text} [{variables[0]}]"
        )
    about = "exit code when a signal has stopped the run, saved, before its end (0); for launchers that start it again"
    group.add_argument("--stopped-code", type=int, default=0, metavar="N", help=about)


def line() -> hosts.ProcessGroup:
    """The line to the other processes; alone, if `together` is not under way."""
    return _current


@contextlib.contextmanager
def together(options: argparse.Namespace) -> Iterator[hosts.ProcessGroup]:
    """While it lasts, jax sees the devices of all processes, and `line()` is the line between them.

    To be entered before jax has started its devices. An error that ends it is told to the other
    processes, which end with it; then, and after an error that came from another, this process is
    left by `os._exit`, since jax's own end would wait for processes that do not come: so it is for
    the command line, not for a library.

    Raises:
      StartError, Lost: as `find` and `hosts.connect`.
    """
    global _current
    place = find_process(options)
    if place is None:
        yield _current
        return
    limit = _limit(options)
    _current = rendezvous.connect(place.line, place.index, place.count, limit)
    log.for_process(place.index)
    try:
        _start(place, limit)
        # Late: jax takes a second to import
        from ipt_jax.distributed import devices

        devices.meet(lambda: _current.gather("devices", None))
        yield _current
        _current.leave()
    except BaseException as error:
        _end(_current, error)


def _end(line: hosts.ProcessGroup, error: BaseException) -> NoReturn:
    ours = isinstance(error, (RunError, UserError, OSError, KeyboardInterrupt))
    # What goes wrong here when another process goes: jax's collectives raise what they like, orbax
    # a failed save.
    elsewhere = line.trouble(
        0.0 if isinstance(error, (UserError, errors.Lost, KeyboardInterrupt)) else 3.0
    )
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


def _start(place: ProcessSpec, limit: float) -> None:
    """jax.distributed: all processes are known to be there, so it has no one to wait for."""
    port = int(place.coordinator.rpartition(":")[2])
    if place.index == 0:
        try:
            socket.create_server(("", port)).close()
        except OSError as error:
            raise errors.Lost(
                f"process 0 cannot listen on port {port}: {error.strerror}; name another port"
            ) from None
    import jax

    # Its handler of SIGTERM would take the place of ours (meter.StopSignals), which serves SIGINT,
    # too.
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
