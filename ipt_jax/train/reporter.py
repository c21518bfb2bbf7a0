"""What a run says while it trains: each step's metrics, speed, waiting, pictures that cannot be read; a stop on signals."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import jax
import numpy as np

from ipt_jax import log
from ipt_jax.data import pipeline
from ipt_jax.data.sources.held_out import DataError, listed
from ipt_jax.distributed import process_group as hosts
from ipt_jax.distributed import sharding as partition
from ipt_jax.errors import RunError

logger = log.logger


class Meter:
    """Reads each step's metrics while the next one runs; reports means, speed, waiting and the time left."""

    def __init__(self, plain: dict[str, Any], pictures: int, batches: pipeline.Batches, metrics_log: log.MetricsLog):
        self._plain, self._batches, self._log = plain, batches, metrics_log
        self._progress = log.Progress(partition.is_main())
        self._last: tuple[int, dict[str, jax.Array]] | None = None
        self._sums: dict[str, list[float]] = {}
        self._steps_in_report = 0
        self._clock = log.Clock()
        self._rates: list[float] = []
        self._total = pictures
        self._seen = 0
        self._bad: set[str] = set()
        self._begun = False

    def wait_for(self, items: Iterator[pipeline.Item]) -> pipeline.Item | None:
        """The next item, None if it was given up; the time until it is there counts as waiting for data."""
        try:
            with self._clock:
                return next(items, None)
        except DataError as error:
            raise RunError(str(error)) from error

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Saving and evaluating do not count as training time."""
        began = time.perf_counter()
        yield
        self._clock.skip(time.perf_counter() - began)

    def took(self, step: int, metrics: dict[str, jax.Array], item: pipeline.Item) -> None:
        """Step `step` is under way: reads the one before."""
        self._count_bad(item)
        previous, self._last = self._last, (step, metrics)
        if previous is not None:
            self._read(*previous)

    def finish(self) -> None:
        """Reads the last step."""
        if self._last is not None:
            self._read(*self._last)
            self._last = None
        self._progress.end()

    def _read(self, step: int, metrics: dict[str, jax.Array]) -> None:
        values = {k: float(v) for k, v in jax.device_get(metrics).items()}
        if not self._begun:  # the first step's time is the compiler's
            self._begun = True
            self._clock.report()
        else:
            self._steps_in_report += 1
        in_a_row = int(values.pop("skipped_in_a_row"))
        if in_a_row:
            logger.warning("step %d: %s; nothing was changed (%d in a row)", step, self._why(step, values), in_a_row)
        for key, value in values.items():
            self._sums.setdefault(key, []).append(value)
        if in_a_row >= self._plain["optim"]["max_skipped"]:
            raise RunError(
                f"{in_a_row} steps in a row changed nothing, up to step {step}: {self._why(step, values)}; the last "
                "checkpoint is good: lower optim.learning_rate or look at the data"
            )
        if step % self._plain["log"]["every"] == 0 or step == self._plain["steps"]:
            self._report(step)

    def _why(self, step: int, values: Mapping[str, float]) -> str:
        """What is wrong with a step, in which tasks, and the pictures that its batch was made of."""
        finite = np.isfinite(values["loss"]) and np.isfinite(values["grad_norm"])
        what = f"a loss of {values['loss']:.4g} is a spike" if finite else "loss or gradient is not finite"
        names = [task.name for task in self._batches.tasks if f"l1/{task.name}" in values]
        bad = [name for name in names if not np.isfinite(values[f"l1/{name}"])]
        return f"{what} (tasks: {', '.join(bad or names)}; pictures: {listed(self._batches.names(step - 1))})"

    def _report(self, step: int) -> None:
        means = {k: float(np.mean(v)) for k, v in self._sums.items()}
        means["skipped"], means["lr"] = self._sums["skipped"][-1], self._sums["lr"][-1]
        seconds, wait = self._clock.report()
        rate = self._steps_in_report / max(seconds, 1e-9)
        self._rates = [*self._rates[-9:], rate] if self._steps_in_report else self._rates
        self._sums, self._steps_in_report = {}, 0
        means |= {"samples_per_s": rate * self._plain["batch_size"], "wait": wait, "bad_pictures": float(len(self._bad))}
        self._log.write(step, means)
        steps = self._plain["steps"]
        left = log.duration((steps - step) / float(np.mean(self._rates))) if self._rates else "?"
        names = [task.name for task in self._batches.tasks if f"l1/{task.name}" in means]
        losses = " ".join(f"{name} {means[f'l1/{name}']:.2f}" for name in names)
        contrast = f" contrastive {means['contrastive']:.3f}" if "contrastive" in means else ""
        self._progress.show(
            f"step {step}/{steps}  loss {means['loss']:.2f}  {losses}{contrast}  "
            f"{means['samples_per_s']:.1f} samples/s  wait {100 * wait:.1f} %  ETA {left}"
        )

    def _count_bad(self, item: pipeline.Item) -> None:
        rows = len(next(iter(next(iter(item.batch.values())).values())))
        self._seen += rows // self._batches.crops
        for text in item.replaced:
            name = text.split(": ")[0]
            if name not in self._bad and len(self._bad) < 50:
                logger.warning("replaced a picture that cannot be read: %s", text)
            self._bad.add(name)
        seen = min(self._seen, self._total)
        limit = self._plain["data"]["max_bad"]
        if len(self._bad) > limit * max(seen, min(self._total, 100)):
            raise RunError(
                f"{len(self._bad)} of the first {seen} pictures cannot be read, more than data.max_bad={limit}; "
                f"the last: {item.replaced[-1]}"
            )


GRACE = 20.0  # seconds that data have to come after a signal, before the run is saved without the step that needs them


class StopSignals:
    """While it lasts, SIGTERM and Ctrl-C ask for a stop after the step under way; a second one stops at once.

    A step that still waits for its data is not waited for longer than `GRACE`. With several processes, a signal to any of
    them stops all after the same step, so that this one is waited for. Python runs handlers between two of its
    instructions, so not while the main thread waits in XLA, and once for all signals of a kind that come meanwhile: they
    are counted elsewhere. A second SIGTERM then still ends the process, a second Ctrl-C interrupts when XLA returns.
    """

    def __init__(self, line: hosts.Line) -> None:
        self._line = line
        self._signal = ""
        self._since = float("inf")
        self._now = False
        self._before: dict[int, Any] = {}
        self._counter: _Counter | None = None

    @property
    def name(self) -> str:
        """The signal that stopped the run, and the process that got it if there are several."""
        return self._line.stopped_by

    def requested(self, step: int) -> bool:
        """Whether to stop before batch `step`, the same in all processes.

        Raises:
          Lost: another process has gone or reported an error.
        """
        if self._signal and self._line.stop_at is None:
            self._line.ask_stop(step, self._signal)
        return self._line.stops(step)

    def impatient(self) -> bool:
        """Whether data that have not come yet are to be given up."""
        return self._now or (self._line.count == 1 and time.monotonic() - self._since > GRACE)

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._on_signal)
            except ValueError:  # not the main thread, as in a notebook's helper: then nothing is caught
                return self
        self._counter = _Counter(lambda: self._signal != "", lambda: self._now)
        return self

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal, self._since = signal.Signals(number).name, time.monotonic()
        logger.warning("%s: finishing the step, saving and leaving; once more to leave at once", self._signal)
        signal.signal(signal.SIGTERM, self._before.pop(signal.SIGTERM))
        signal.signal(signal.SIGINT, self._on_second)

    def _on_second(self, number: int, frame: FrameType | None) -> None:
        self._now = True
        self._restore()
        raise KeyboardInterrupt

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def __exit__(self, *exc: object) -> None:
        self._restore()
        if self._counter is not None:
            self._counter.close()


class _Counter:
    """Hears of signals when they come, in a thread: ends the process at a second SIGTERM, and sees to a second Ctrl-C.

    Args:
      first: whether the main thread has been told of a signal.
      second: whether it has been interrupted.
    """

    def __init__(self, first: Callable[[], bool], second: Callable[[], bool]) -> None:
        self._first, self._second = first, second
        self._closed = threading.Event()
        self._ear, self._mouth = socket.socketpair()
        self._mouth.setblocking(False)
        self._before = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        if self._before != -1:  # an event loop's, as in some notebooks: that has to hear of its signals
            signal.set_wakeup_fd(self._before)
            return
        threading.Thread(target=self._listen, name="ipt-signals", daemon=True).start()

    def _listen(self) -> None:
        heard, interrupting = b"", False
        while numbers := self._ear.recv(16):
            heard += numbers
            if heard.count(signal.SIGTERM) > 1:
                os._exit(128 + signal.SIGTERM)
            if len(heard) > 1 and signal.SIGINT in numbers and not interrupting:
                interrupting = True
                threading.Thread(target=self._interrupt, name="ipt-interrupt", daemon=True).start()

    def _interrupt(self) -> None:
        """Python forgets a signal that comes before its handler has run for the one before: sends it again."""
        while not self._first():
            if self._closed.wait(0.1):
                return
        if not self._closed.wait(0.5) and not self._second():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def close(self) -> None:
        self._closed.set()
        if self._before == -1:
            signal.set_wakeup_fd(-1)
        self._mouth.close()
