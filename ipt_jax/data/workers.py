"""Items made ahead by threads or processes (grain's), in order; what dies is reported, what is left
is cleaned up.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import math
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import FrameType
from typing import Any, TypeVar

import cv2
import grain

from ipt_jax.data import shared_memory as shared
from ipt_jax.errors import Stalled, WorkerError, register_hang_check

T = TypeVar("T")

logger = logging.getLogger("ipt_jax")

# Seconds without an item before a warning
PATIENCE = 60.0

# And before an error, unless the caller says otherwise
STALLED = 1800.0

# Seconds for an item that was given up
_PARTING = 5.0

# Seconds for one that is under way when nobody wants more
_LAST = 60.0

# Seconds that a worker outlives a SIGTERM
_GRACE = 30

# Of worker processes
_ENVIRONMENT = {
    # Their number is the parallelism
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    # Glibc: keep a batch's memory for the next, instead of new, empty pages each time
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
}


def run(
    make: Callable[[int], T],
    steps: range,
    processes: int,
    threads: int,
    prefetch: int,
    stalled: float = STALLED,
    what: str = "the source",
    given_up: Callable[[], bool] = lambda: False,
) -> Generator[T, None, None]:
    """`make(step)` for each step, in order.

    Args:
      make: a pure, picklable function; its arrays come back as arrays of this process.
      steps: which.
      processes: that many worker processes, each `prefetch` items ahead; 0 = threads of this
        process.
      threads: without processes; 0 = each item is made when it is asked for.
      prefetch: items made ahead.
      stalled: seconds without an item before the error.
      what: where items come from, for that error.
      given_up: asked while an item is waited for; True ends the items there, and what is under way
        at their end is not waited for long.

    Raises:
      WorkerError: a worker process died.
      Stalled: nothing came for so long.
      Exception: what `make` raised, with the worker's traceback.
    """
    items = (
        _by_processes(make, steps, processes, prefetch)
        if processes
        else _by_threads(make, steps, threads, prefetch)
    )
    bounded = _bounded(items, stalled, what, given_up, ahead=bool(processes or threads))
    _open.add(bounded)
    return bounded


def hang() -> bool:
    """Whether something that made items still hangs: then this process can only end by
    `os._exit`.
    """
    return any(thread.is_alive() for thread in _hanging)


register_hang_check(hang)

_hanging: list[threading.Thread] = []

_open: weakref.WeakSet[Generator[Any, None, None]] = weakref.WeakSet()


# Registered after multiprocessing's own, so it runs before
@atexit.register
def _close_open() -> None:
    # What is abandoned half way cannot be closed any more once the interpreter takes its modules
    # apart.
    for items in list(_open):
        # Another thread is in it
        with contextlib.suppress(ValueError):
            items.close()


def _bounded(
    items: Generator[T, None, None],
    stalled: float,
    what: str,
    given_up: Callable[[], bool],
    ahead: bool,
) -> Generator[T, None, None]:
    """The same items, asked for by another thread: waiting for one can be given up, and `ahead` one
    is always fetched.

    Fetching a worker's batch is some milliseconds of this process's CPU, which a step on a device
    hides.
    """
    asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
    answers: queue.SimpleQueue[tuple[list[T], BaseException | None]] = queue.SimpleQueue()

    def answer() -> None:
        try:
            while asked.get():
                try:
                    answers.put(([next(items)], None))
                except StopIteration:
                    answers.put(([], None))
                except BaseException as error:
                    answers.put(([], error))
        finally:
            items.close()

    thread = threading.Thread(target=answer, name="ipt-data-next", daemon=True)
    thread.start()
    patience = _LAST if ahead else None
    try:
        asked.put(True)
        while True:
            try:
                answered = _wait(answers, stalled, what, given_up)
            except BaseException:
                patience = _PARTING
                raise
            if answered is None:
                patience = _PARTING
                return
            item, error = answered
            if error is not None:
                raise error
            if not item:
                return
            if ahead:
                asked.put(True)
            # And holds it no longer: the receiver decides when its memory is freed
            yield item.pop()
            if not ahead:
                asked.put(True)
    finally:
        asked.put(False)
        if not _ended(thread, patience, given_up):
            _hanging.append(thread)


def _wait(
    answers: queue.SimpleQueue[T], stalled: float, what: str, given_up: Callable[[], bool]
) -> T | None:
    """An answer, or None once it is given up."""
    began, patience = time.monotonic(), PATIENCE
    while True:
        waited = time.monotonic() - began
        try:
            return answers.get(timeout=max(0.0, min(1.0, patience - waited, stalled - waited)))
        except queue.Empty:
            waited = time.monotonic() - began
            if given_up():
                return None
            if waited >= stalled:
                raise Stalled(
                    f"no batch for {stalled:.0f} s (data.stalled): {what} does not answer"
                ) from None
            if waited >= patience:
                logger.warning(
                    "no batch for %.0f s: is the storage slow, or a data worker stuck? (%s)",
                    waited,
                    what,
                )
                patience = 2 * waited


def _ended(thread: threading.Thread, patience: float | None, given_up: Callable[[], bool]) -> bool:
    """Whether it ends in time: `patience` (None: without a limit), or less once what it makes is
    given up.
    """
    until = math.inf if patience is None else time.monotonic() + patience
    hurried = False
    while thread.is_alive() and time.monotonic() < until:
        if not hurried and given_up():
            until, hurried = min(until, time.monotonic() + _PARTING), True
        thread.join(max(0.0, min(0.2, until - time.monotonic())))
    return not thread.is_alive()


def _by_threads(
    make: Callable[[int], T], steps: range, threads: int, prefetch: int
) -> Generator[T, None, None]:
    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=max(threads, prefetch) if threads else 0
    )
    items = iter(_dataset(make, steps).to_iter_dataset(options))
    try:
        yield from items
    finally:
        items.close()


def _by_processes(
    make: Callable[[int], T], steps: range, processes: int, prefetch: int
) -> Generator[T, None, None]:
    # One grain iterator a process, taken in turn. A single iterator over all of them would start a
    # process that it knows nothing of until its first item is due, and could not stop it when it is
    # closed before.
    _parse_flags()
    room = shared.Room()
    turns: list[grain.DatasetIterator] = []
    try:
        whole = _dataset(shared.Sender(make, room), steps)
        each = grain.MultiprocessingOptions(num_workers=1, per_worker_buffer_size=prefetch)
        unbuffered = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        for i in range(min(processes, len(steps))):
            share = whole[i::processes].to_iter_dataset(unbuffered)
            turns.append(
                iter(share.mp_prefetch(each, worker_init_fn=functools.partial(_begin_worker, room)))
            )
        first = _first_items(turns)
        for i in range(len(steps)):
            try:
                parcel = first.popleft().result() if first else next(turns[i % len(turns)])
            except RuntimeError as error:
                raise _died(error) from error
            yield shared.receive(parcel)
    finally:
        _close(turns)
        room.remove()


def _first_items(turns: list[grain.DatasetIterator]) -> deque[Future]:
    """Starts all processes at once; what they gave, or raised, first."""

    def first(turn: grain.DatasetIterator) -> Any:
        # Makes the iterator of the process, which is then known to close()
        turn.get_state()
        return next(turn)

    # The children are as they should be until all have started, which shows only in their first
    # items.
    with _plain_children(), ThreadPoolExecutor(max(1, len(turns)), "ipt-data") as pool:
        return deque([pool.submit(first, turn) for turn in turns])


def _dataset(make: Callable[[int], Any], steps: range) -> grain.MapDataset:
    return grain.MapDataset.range(steps.start, steps.stop).map(make)


def _close(turns: list[grain.DatasetIterator]) -> None:
    # All at once, since each waits for the batch that its process is at. Not by a pool of long
    # standing: a generator that is garbage is closed after its pool's threads have left.
    threads = [threading.Thread(target=turn.close, daemon=True) for turn in turns]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    # The interpreter is shutting down and starts no threads
    except RuntimeError:
        for turn in turns:
            turn.close()


def _died(error: RuntimeError) -> Exception:
    text = str(error)
    if "terminated unexpectedly" not in text:
        return error
    code = text.partition("exit code ")[2].partition(".")[0]
    memory = "killed, often for lack of memory: lower data.workers, data.prefetch or batch_size"
    why = memory if code == "-9" else "its last words are above"
    return WorkerError(f"a data worker died with exit code {code} ({why})")


def _parse_flags() -> None:
    """grain's workers read absl flags, which nobody parses outside `absl.app.run`."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


@contextlib.contextmanager
def _plain_children() -> Iterator[None]:
    """Processes that start meanwhile get an environment of their own, and do not run the main
    script again.

    What they run comes to them pickled by value, so they need no `__main__`; without it a script
    needs no guard, and workers start faster, also from a notebook or from a script on stdin.
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


def _begin_worker(room: shared.Room, index: int, count: int) -> None:
    """Runs first in each worker process."""
    cv2.setNumThreads(0)
    # Ctrl-C and a scheduler's SIGTERM go to the whole group of processes. The run decides when to
    # stop, and needs its workers until then; should it never tell them, SIGTERM takes effect later.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
