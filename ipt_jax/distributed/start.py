"""The start of a run on several processes: discovery, rendezvous, `jax.distributed`.

The description of the processes comes from, in this order: flags (`--coordinator`,
`--num-processes`, `--process-id`), environment variables (IPT_COORDINATOR, ... or
JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID), a Slurm step, a TPU pod on GKE (also
with several slices), a TPU VM. On a machine without any of these signs no network is used.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from typing import NoReturn

from ipt_jax import log
from ipt_jax.distributed import rendezvous
from ipt_jax.distributed.discovery import ProcessSpec, StartOptions, find_process, start_timeout
from ipt_jax.distributed.process_group import ProcessGroup
from ipt_jax.distributed.relay import start_relay
from ipt_jax.errors import Lost, RunError, UserError
from ipt_jax.messages import say_error

# Seconds without a heartbeat after which JAX aborts a process; the process group is faster.
HEARTBEAT = 100

_current: ProcessGroup | None = None


def current_group() -> ProcessGroup:
    """Returns the processes of this run: a single one outside of `together`.

    A single process gets a new group for each run, because a group keeps the step at which a signal
    has stopped it.
    """
    return _current or ProcessGroup()


@contextlib.contextmanager
def together(options: StartOptions) -> Iterator[ProcessGroup]:
    """Lets JAX see the devices of all processes; within, `current_group()` is their group.

    Enter it before JAX has started its devices. An error that leaves the block is sent to the other
    processes, which end as well. Then this process ends by `os._exit`, since an ordinary exit
    would wait in JAX for processes that do not come. Therefore this is for a command line, not for
    a library.

    Args:
      options: the flags; any object with these attributes will do.

    Raises:
      StartError, RunError: as `discovery.find_process`.
      Lost: as `rendezvous.connect`.
    """
    global _current
    process = find_process(options)
    if process is None:
        yield current_group()
        return
    limit = start_timeout(options)
    group = rendezvous.connect(process.address, process.index, process.count, limit)
    _current = group
    log.for_process(process.index)
    try:
        _start_jax(process, limit)
        # Importing JAX takes a second, which a process that waits for others does not need.
        from ipt_jax.distributed import devices

        devices.connect_devices(lambda: group.gather("devices", None))
        yield group
        group.leave()
    except BaseException as error:
        _end(group, error)


def _end(group: ProcessGroup, error: BaseException) -> NoReturn:
    """Prints an error, sends it to the other processes, and ends this process."""
    expected = isinstance(error, (RunError, UserError, OSError, KeyboardInterrupt))
    # The death of another process shows here as any kind of error: JAX's collectives raise several,
    # and Orbax reports a failed save. These errors wait for the news of a death.
    own = isinstance(error, (UserError, Lost, KeyboardInterrupt))
    elsewhere = group.trouble(0.0 if own else 3.0)
    text = elsewhere or ("interrupted" if isinstance(error, KeyboardInterrupt) else str(error))
    if not expected and not elsewhere:
        traceback.print_exception(error)
        text = f"{type(error).__name__}: {text}"
    say_error(f"ipt: {text}")
    group.fault(text)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2 if isinstance(error, UserError) else 1)


def _start_jax(process: ProcessSpec, limit: float) -> None:
    """Calls `jax.distributed.initialize`, once all processes are known to be there.

    Raises:
      Lost: process 0 cannot listen on its port.
    """
    host, _, digits = process.coordinator.rpartition(":")
    port, coordinator = int(digits), process.coordinator
    if process.index:
        coordinator = start_relay((host.strip("[]"), port), limit)
    else:
        try:
            socket.create_server(("", port)).close()
        except OSError as error:
            raise Lost(
                f"process 0 cannot listen on port {port}: {error.strerror}; name another port"
            ) from None
    import jax

    # JAX's handler of SIGTERM would replace that of `train.stop_signals`, which also handles
    # SIGINT.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        coordinator,
        process.count,
        process.index,
        local_device_ids=process.local_devices,
        cluster_detection_method="deactivate",
        initialization_timeout=max(60, int(limit)),
        heartbeat_timeout_seconds=HEARTBEAT,
        shutdown_timeout_seconds=60,
    )
