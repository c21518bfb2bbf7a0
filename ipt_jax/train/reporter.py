"""Reports of a run while it trains: metrics of the steps, speed, waiting, unreadable images."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ipt_jax.data import pipeline
from ipt_jax.distributed import devices
from ipt_jax.errors import DataError, RunError
from ipt_jax.log import logger
from ipt_jax.messages import listed
from ipt_jax.run_folder.metrics_log import MetricsLog
from ipt_jax.train import progress
from ipt_jax.train.goodput import Goodput

# The number of unreadable images that are each named in the log.
NAMED = 50

# The time left is computed from the mean speed of so many reports.
RATES = 10


class StepReporter:
    """Reads the metrics of each step while the next one runs, and reports their means.

    Args:
      config: the resolved config.
      images: the number of training images.
      batches: makes the batches; the names of a step's images come from it.
      metrics_log: takes the reports.
      goodput: takes the time of everything but steps.
    """

    def __init__(
        self,
        config: dict[str, Any],
        images: int,
        batches: pipeline.Batches,
        metrics_log: MetricsLog,
        goodput: Goodput,
    ):
        self._config, self._batches, self._log = config, batches, metrics_log
        self._goodput = goodput
        # The sets of tasks for which a step has been compiled.
        self._compiled_for: set[frozenset[str]] = set()
        self._progress = progress.Progress(devices.is_main())
        self._clock = progress.Clock()
        # The step that runs, whose metrics have not been read.
        self._last: tuple[int, dict[str, jax.Array]] | None = None
        self._compiled = False
        # Metrics of the steps since the last report.
        self._values: dict[str, list[float]] = {}
        self._steps_in_report = 0
        self._rates: list[float] = []
        self._images, self._seen = images, 0
        self._unreadable: set[str] = set()
        self._damaged: set[str] = set()

    def wait_for(self, items: Iterator[pipeline.StreamItem]) -> pipeline.StreamItem | None:
        """Returns the next item, or None if the data ended or were given up after a signal.

        The time until it comes counts as waiting for data.

        Raises:
          RunError: the data cannot be read.
        """
        try:
            with self._clock, self._goodput.spent("waiting"):
                return next(items, None)
        except DataError as error:
            raise RunError(str(error)) from error

    @contextlib.contextmanager
    def paused(self, kind: str) -> Iterator[None]:
        """Excludes the time of a block from the training time; it counts as this kind."""
        began = time.perf_counter()
        with self._goodput.spent(kind):
            yield
        self._clock.skip(time.perf_counter() - began)

    @contextlib.contextmanager
    def dispatching(self, item: pipeline.StreamItem) -> Iterator[None]:
        """Counts the time of a block that starts a step as compiling, where it has to compile."""
        tasks = frozenset(item.batch)
        if tasks in self._compiled_for:
            yield
            return
        if not self._compiled_for:
            self._goodput.started()
        with self._goodput.spent("compiling"):
            yield
        self._compiled_for.add(tasks)

    def step_dispatched(
        self, step: int, metrics: dict[str, jax.Array], item: pipeline.StreamItem
    ) -> None:
        """Takes the metrics of a step that has just been started; reads those of the step before.

        Args:
          step: the number of steps that have been started.
          metrics: the step's metrics, which are not ready yet.
          item: the step's batch.

        Raises:
          RunError: too many images cannot be read, or too many steps in a row changed nothing.
        """
        self._count_unreadable(item)
        previous, self._last = self._last, (step, metrics)
        if previous is not None:
            self._read(*previous)

    def finish(self) -> None:
        """Reads the metrics of the last step. Raises RunError as `step_dispatched` does."""
        if self._last is not None:
            self._read(*self._last)
            self._last = None
        self._progress.end()

    def _read(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Waits for the metrics of a step and reports them if a report is due."""
        values = {key: float(value) for key, value in jax.device_get(metrics).items()}
        # The time of the first step is that of the compiler.
        if not self._compiled:
            self._compiled = True
            self._clock.report()
        else:
            self._steps_in_report += 1
        in_a_row = int(values.pop("skipped_in_a_row"))
        if in_a_row:
            logger.warning(
                "step %d: %s; nothing was changed (%d in a row)",
                step,
                self._reason(step, values),
                in_a_row,
            )
        for key, value in values.items():
            self._values.setdefault(key, []).append(value)
        if in_a_row >= self._config["optim"]["max_skipped"]:
            raise RunError(
                f"{in_a_row} steps in a row changed nothing, up to step {step}: "
                f"{self._reason(step, values)}; the last checkpoint is good: lower "
                "optim.learning_rate or look at the data"
            )
        if step % self._config["log"]["every"] == 0 or step == self._config["steps"]:
            self._report(step)

    def _reason(self, step: int, values: Mapping[str, float]) -> str:
        """Returns why a step changed nothing: the loss, the tasks, and the images of its batch."""
        finite = np.isfinite(values["loss"]) and np.isfinite(values["grad_norm"])
        spike = f"a loss of {values['loss']:.4g} is a spike"
        what = spike if finite else "loss or gradient is not finite"
        names = self._tasks_in(values)
        bad = [name for name in names if not np.isfinite(values[f"l1/{name}"])]
        images = listed(self._batches.names(step - 1))
        return f"{what} (tasks: {', '.join(bad or names)}; images: {images})"

    def _tasks_in(self, values: Mapping[str, float]) -> list[str]:
        """Returns the tasks that metrics are about, in the config's order."""
        return [task.name for task in self._batches.tasks if f"l1/{task.name}" in values]

    def _report(self, step: int) -> None:
        """Writes the means since the last report to the log and the progress line."""
        means = {key: float(np.mean(values)) for key, values in self._values.items()}
        means["skipped"], means["lr"] = self._values["skipped"][-1], self._values["lr"][-1]
        seconds, wait = self._clock.report()
        rate = self._steps_in_report / max(seconds, 1e-9)
        if self._steps_in_report:
            self._rates = [*self._rates[1 - RATES :], rate]
        self._values, self._steps_in_report = {}, 0
        means |= {
            "samples_per_s": rate * self._config["batch_size"],
            "wait": wait,
            "bad_pictures": float(len(self._unreadable)),
            **self._goodput.shares(),
        }
        self._log.write(step, means)
        self._progress.show(self._line(step, means))

    def _line(self, step: int, means: Mapping[str, float]) -> str:
        """Returns the progress line of a report."""
        steps, left = self._config["steps"], "?"
        if self._rates:
            left = progress.duration((steps - step) / float(np.mean(self._rates)))
        losses = " ".join(f"{name} {means[f'l1/{name}']:.2f}" for name in self._tasks_in(means))
        contrast = f" contrastive {means['contrastive']:.3f}" if "contrastive" in means else ""
        return (
            f"step {step}/{steps}  loss {means['loss']:.2f}  {losses}{contrast}  "
            f"{means['samples_per_s']:.1f} samples/s  wait {100 * means['wait']:.1f} %  ETA {left}"
        )

    def _count_unreadable(self, item: pipeline.StreamItem) -> None:
        """Logs the images of an item that are damaged or cannot be read, and limits the latter.

        Raises:
          RunError: there are more than `data.max_bad` allows.
        """
        rows = len(next(iter(next(iter(item.batch.values())).values())))
        self._seen += rows // self._batches.crops
        for text in item.replaced:
            name = text.split(": ")[0]
            if name not in self._unreadable and len(self._unreadable) < NAMED:
                logger.warning("replaced an image that cannot be read: %s", text)
            self._unreadable.add(name)
        for text in item.damaged:
            name = text.split(": ")[0]
            if name not in self._damaged and len(self._damaged) < NAMED:
                logger.warning("an image is damaged, and is used as its decoder reads it: %s", text)
            self._damaged.add(name)
        seen = min(self._seen, self._images)
        limit = self._config["data"]["max_bad"]
        if len(self._unreadable) > limit * max(seen, min(self._images, 100)):
            raise RunError(
                f"{len(self._unreadable)} of the first {seen} images cannot be read, more than "
                f"data.max_bad={limit} allows; the last: {item.replaced[-1]}"
            )
