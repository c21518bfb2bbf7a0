"""What a run says while it trains: each step's metrics, speed, waiting, pictures that cannot be
read; a stop on signals.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ipt_jax import log
from ipt_jax.data import pipeline
from ipt_jax.distributed import devices
from ipt_jax.errors import DataError, RunError
from ipt_jax.messages import listed
from ipt_jax.run_folder import metrics_log as metrics_log_module
from ipt_jax.train import progress

logger = log.logger


class StepReporter:
    """Reads each step's metrics while the next one runs; reports means, speed, waiting and the time
    left.
    """

    def __init__(
        self,
        plain: dict[str, Any],
        pictures: int,
        batches: pipeline.Batches,
        metrics_log: metrics_log_module.MetricsLog,
    ):
        self._plain, self._batches, self._log = plain, batches, metrics_log
        self._progress = progress.Progress(devices.is_main())
        self._last: tuple[int, dict[str, jax.Array]] | None = None
        self._sums: dict[str, list[float]] = {}
        self._steps_in_report = 0
        self._clock = progress.Clock()
        self._rates: list[float] = []
        self._total = pictures
        self._seen = 0
        self._bad: set[str] = set()
        self._begun = False

    def wait_for(self, items: Iterator[pipeline.StreamItem]) -> pipeline.StreamItem | None:
        """The next item, None if it was given up; the time until it is there counts as waiting for
        data.
        """
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

    def took(self, step: int, metrics: dict[str, jax.Array], item: pipeline.StreamItem) -> None:
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
        # The first step's time is the compiler's
        if not self._begun:
            self._begun = True
            self._clock.report()
        else:
            self._steps_in_report += 1
        in_a_row = int(values.pop("skipped_in_a_row"))
        if in_a_row:
            logger.warning(
                "step %d: %s; nothing was changed (%d in a row)",
                step,
                self._why(step, values),
                in_a_row,
            )
        for key, value in values.items():
            self._sums.setdefault(key, []).append(value)
        if in_a_row >= self._plain["optim"]["max_skipped"]:
            raise RunError(
                f"{in_a_row} steps in a row changed nothing, up to step {step}: "
                f"{self._why(step, values)}; the last "
                "checkpoint is good: lower optim.learning_rate or look at the data"
            )
        if step % self._plain["log"]["every"] == 0 or step == self._plain["steps"]:
            self._report(step)

    def _why(self, step: int, values: Mapping[str, float]) -> str:
        """What is wrong with a step, in which tasks, and the pictures that its batch was made
        of.
        """
        finite = np.isfinite(values["loss"]) and np.isfinite(values["grad_norm"])
        what = (
            f"a loss of {values['loss']:.4g} is a spike"
            if finite
            else "loss or gradient is not finite"
        )
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
        means |= {
            "samples_per_s": rate * self._plain["batch_size"],
            "wait": wait,
            "bad_pictures": float(len(self._bad)),
        }
        self._log.write(step, means)
        steps = self._plain["steps"]
        left = (
            progress.duration((steps - step) / float(np.mean(self._rates))) if self._rates else "?"
        )
        names = [task.name for task in self._batches.tasks if f"l1/{task.name}" in means]
        losses = " ".join(f"{name} {means[f'l1/{name}']:.2f}" for name in names)
        contrast = f" contrastive {means['contrastive']:.3f}" if "contrastive" in means else ""
        self._progress.show(
            f"step {step}/{steps}  loss {means['loss']:.2f}  {losses}{contrast}  "
            f"{means['samples_per_s']:.1f} samples/s  wait {100 * wait:.1f} %  ETA {left}"
        )

    def _count_bad(self, item: pipeline.StreamItem) -> None:
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
                f"{len(self._bad)} of the first {seen} pictures cannot be read, more than "
                f"data.max_bad={limit}; "
                f"the last: {item.replaced[-1]}"
            )
