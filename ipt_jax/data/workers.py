"""Makes items ahead of their use, in order, by grain's threads or processes.

A worker that dies and a source that stalls become errors in the caller. Whatever way the caller
ends, processes, threads and shared memory are cleaned up.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import math
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import grain

from ipt_jax.data import child_processes
from ipt_jax.data import shared_memory as shared
from ipt_jax.errors import Stalled, WorkerError, register_hang_check

T = TypeVar("T")

logger = logging.getLogger("ipt_jax")

# Seconds without an item before a warning.
PATIENCE = 60.0

# Seconds without an item before an error, unless the caller gives another limit.
STALLED = 1800.0

# At the end, seconds to wait for an item in progress: after an error or once it is given up...
ABANDONED = 5.0
# ... and otherwise.
UNFINISHED = 60.0


def make_ahead(
    make: Callable[[int], T],
    steps: range,
    processes: int,
    threads: int,
    prefetch: int,
    stalled: float = STALLED,
    what: str = "the source",
    given_up: Callable[[], bool] = lambda: False,
) -> Generator[T, None, None]:
    """Yields `make(step)` for each step, in order.

    Args:
      make: a pure, picklable function; the arrays that it returns become arrays of this process.
      steps: the steps to make.
      processes: number of worker processes, each `prefetch` items ahead; 0 uses threads of this
        process.
      threads: number of threads if there are no processes; 0 makes each item when it is asked for.
      prefetch: items made ahead.
      stalled: seconds without an item before `Stalled` is raised.
      what: names the source of the items in that error.
      given_up: asked about once a second while no item is ready; True ends the generator, which
        then waits only briefly for the item in progress.

    Raises:
      WorkerError: a worker process died.
      Stalled: no item came for `stalled` seconds.
      Exception: whatever `make` raised, with the traceback of the worker.
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
    """Tells whether a thread hangs, so that this process can end only by `os._exit`."""
    return any(thread.is_alive() for thread in _hanging)


register_hang_check(hang)


def pool_hangs() -> bool:
    """Tells whether a thread of grain's pools does not end; waits up to `ABANDONED` seconds for it.

    A pool makes items ahead, so its threads can hang in a dead storage while the thread that hands
    over the items does not. Python waits for these threads when it ends.
    """
    until = time.monotonic() + ABANDONED
    pool = [thread for thread in threading.enumerate() if thread.name.startswith("grain-prefetch")]
    for thread in pool:
        thread.join(max(0.0, until - time.monotonic()))
    return any(thread.is_alive() for thread in pool)


# In other programs, pools that are still in use have threads, too.
register_hang_check(pool_hangs, in_programs_only=True)

_hanging: list[threading.Thread] = []

_open: weakref.WeakSet[Generator[Any, None, None]] = weakref.WeakSet()


# Registered after multiprocessing's own handler, so it runs before that.
@atexit.register
def _close_open() -> None:
    # A generator that is abandoned half way cannot be closed any more once the interpreter takes
    # its modules apart.
    for items in list(_open):
        # ValueError: another thread is executing the generator.
        with contextlib.suppress(ValueError):
            items.close()


def _bounded(
    items: Generator[T, None, None],
    stalled: float,
    what: str,
    given_up: Callable[[], bool],
    ahead: bool,
) -> Generator[T, None, None]:
    """Yields the same items, which another thread fetches, so that waiting can be limited.

    With `ahead`, the next item is fetched while the caller uses the last one: fetching a batch
    from a worker takes some milliseconds of CPU time, which a step on a device hides.
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
    patience = UNFINISHED if ahead else None
    try:
        asked.put(True)
        while True:
            try:
                answered = _wait(answers, stalled, what, given_up)
            except BaseException:
                patience = ABANDONED
                raise
            if answered is None:
                patience = ABANDONED
                return
            item, error = answered
            if error is not None:
                raise error
            if not item:
                return
            if ahead:
                asked.put(True)
            # pop(): this frame keeps no reference, so the caller decides when to free the memory.
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
    """Returns an answer, or None once `given_up` is true.

    Raises:
      Stalled: no answer came for `stalled` seconds.
    """
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
    """Waits for a thread and tells whether it has ended.

    The wait lasts up to `patience` seconds (None: without a limit), and at most `ABANDONED`
    seconds after `given_up` becomes true.
    """
    until = math.inf if patience is None else time.monotonic() + patience
    hurried = False
    while thread.is_alive() and time.monotonic() < until:
        if not hurried and given_up():
            until, hurried = min(until, time.monotonic() + ABANDONED), True
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
    # One grain iterator for each process, asked in turn. A single iterator over all processes
    # learns of a process only when its first item is due, and could not stop that process if it is
    # closed earlier.
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
                iter(
                    share.mp_prefetch(
                        each, worker_init_fn=functools.partial(child_processes.begin_worker, room)
                    )
                )
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
    """Starts all processes at once and returns their first items, or what they raised."""

    def first(turn: grain.DatasetIterator) -> Any:
        # Creates the iterator of the process, so that close() will stop the process.
        turn.get_state()
        return next(turn)

    # The environment must last until all processes have started, and only their first items show
    # that they have.
    with (
        child_processes.worker_environment(),
        ThreadPoolExecutor(max(1, len(turns)), "ipt-data") as pool,
    ):
        return deque([pool.submit(first, turn) for turn in turns])


def _dataset(make: Callable[[int], Any], steps: range) -> grain.MapDataset:
    return grain.MapDataset.range(steps.start, steps.stop).map(make)


def _close(turns: list[grain.DatasetIterator]) -> None:
    # All at once, since each close() waits for the batch that its process is making. Threads
    # rather than a long-lived pool: a generator that is garbage-collected is closed after the
    # threads of such a pool have ended.
    threads = [threading.Thread(target=turn.close, daemon=True) for turn in turns]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    # The interpreter is shutting down and starts no threads any more.
    except RuntimeError:
        for turn in turns:
            turn.close()


def _died(error: RuntimeError) -> Exception:
    """Translates grain's error about a dead process to a WorkerError; returns others unchanged."""
    text = str(error)
    if "terminated unexpectedly" not in text:
        return error
    code = text.partition("exit code ")[2].partition(".")[0]
    memory = "killed, often for lack of memory: lower data.workers, data.prefetch or batch_size"
    why = memory if code == "-9" else "its output is above"
    return WorkerError(f"a data worker died with exit code {code} ({why})")


def _parse_flags() -> None:
    """Marks absl's flags as parsed: grain's workers read them, but only `absl.app.run` parses."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
