"""The best evaluation of a run by one metric, and early stopping; kept in `best.json`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from etils import epath

from ipt_jax.distributed import devices
from ipt_jax.distributed.process_group import ProcessGroup
from ipt_jax.log import extra, logger
from ipt_jax.run_folder.best_record import best_of, read_best, score_of, write_best
from ipt_jax.run_folder.folder import BEST


@dataclasses.dataclass
class BestCheckpoint:
    """The evaluations of a run, by a metric that is better when it is higher.

    Attributes:
      folder: the run's folder, which keeps the evaluations.
      metric: "psnr_y" or another metric for its mean over the tasks, "TASK/psnr_y" for one task, ""
        to choose no best checkpoint.
      patience: the number of evaluations without a better one after which to stop; 0 for never.
      seen: (step, value) of each evaluation, in order.
      group: the processes of the run. The values of process 0 decide, so that all of them do the
        same.
    """

    folder: epath.Path
    metric: str
    patience: int
    seen: list[tuple[int, float]]
    group: ProcessGroup = dataclasses.field(default_factory=ProcessGroup)

    @classmethod
    def open(
        cls,
        folder: epath.Path,
        settings: Mapping[str, Any],
        start: int,
        group: ProcessGroup | None = None,
    ) -> BestCheckpoint:
        """Reads the evaluations of a run, and writes them again if they had been damaged.

        Args:
          folder: the run's folder.
          settings: the `evaluate` part of the config.
          start: the step that the run starts from; later evaluations will be repeated and are
            dropped.
          group: the processes of the run; a single one by default.
        """
        metric, group = settings["best"], group or ProcessGroup()
        seen = read_best(folder, metric) if metric and devices.is_main() else []
        seen = [one for one in seen if one[0] <= start]
        if seen:
            with extra(folder / BEST):
                write_best(folder, metric, seen)
        seen = [(int(step), float(value)) for step, value in group.gather("best", seen)[0]]
        return cls(folder, metric, settings["patience"], seen, group)

    def add(self, step: int, scores: Mapping[str, Mapping[str, float]]) -> bool:
        """Adds an evaluation; returns whether it is the best one. Of equal ones, the first is best.

        Args:
          step: the step.
          scores: the means, `{task: {metric: value}}`.
        """
        if not self.metric:
            return False
        value = score_of(self.metric, scores)
        value = float(self.group.gather(f"best {step}", value)[0])
        if math.isnan(value):
            logger.warning("step %d: %s is not defined for such small images", step, self.metric)
            return False
        self.seen = [*(one for one in self.seen if one[0] != step), (step, value)]
        if devices.is_main():
            with extra(self.folder / BEST):
                write_best(self.folder, self.metric, self.seen)
        return self.step == step

    @property
    def step(self) -> int | None:
        """The step of the best evaluation, or None."""
        return best_of(self.seen)

    @property
    def exhausted(self) -> bool:
        """Whether `patience` evaluations have followed the best one."""
        since = [step for step, _ in self.seen if step > (self.step or 0)]
        return bool(self.patience) and len(since) >= self.patience
