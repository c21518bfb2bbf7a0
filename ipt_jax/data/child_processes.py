"""How worker processes start and end: their environment, their signals, and their parent's death.

A worker must not run the main script again, must survive the signals that are meant for the run,
and must not outlive the run when that is killed.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import cv2

from ipt_jax.data import shared_memory as shared

# Seconds that a worker lives on after SIGTERM.
_GRACE = 30

# Environment variables of worker processes.
_ENVIRONMENT = {
    # One thread for each process: the number of processes is the parallelism.
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    # glibc: reuse the memory of one batch for the next, instead of mapping new, empty pages.
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
}


@contextlib.contextmanager
def worker_environment() -> Iterator[None]:
    """Prepares this process for starting workers, and restores its state afterwards.

    Processes that start within this context get `_ENVIRONMENT` and do not run the main script.
    What they run is pickled by value, so they need no `__main__`. Without it a script needs no
    `if __name__ == "__main__"` guard, and workers start faster, also from a notebook or from a
    script on stdin.
    """
    main: dict[str, Any] = sys.modules["__main__"].__dict__
    environment = dict(os.environ)
    names: dict[str, Any] = {name: main[name] for name in ("__file__", "__spec__") if name in main}
    os.environ.update(_ENVIRONMENT)
    main.pop("__file__", None)
    main["__spec__"] = None
    try:
        yield
    finally:
        main |= names
        for name in _ENVIRONMENT:
            if name in environment:
                os.environ[name] = environment[name]
            else:
                del os.environ[name]


def begin_worker(room: shared.Room, index: int, count: int) -> None:
    """Sets up a worker process; grain calls this first in each of them.

    Args:
      room: is removed if the parent process dies.
      index: of the worker (unused).
      count: number of workers (unused).
    """
    cv2.setNumThreads(0)
    # Ctrl-C, a scheduler's SIGTERM and the SIGHUP of a closed terminal reach the entire group of
    # processes. The run decides when to stop and needs its workers until then. If the run never
    # closes them, SIGTERM takes effect after `_GRACE` seconds.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _die_later)
    threading.Thread(target=_die_with_parent, args=(room,), daemon=True).start()


def _die_later(number: int, frame: FrameType | None) -> None:
    signal.alarm(_GRACE)


def _die_with_parent(room: shared.Room) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        room.remove()
        os._exit(1)
