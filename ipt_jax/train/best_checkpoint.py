"""The best evaluation of a run by one metric, and early stopping; kept in `best.json`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from ipt_jax.distributed import devices
from ipt_jax.distributed.process_group import ProcessGroup
from ipt_jax.log import extra, logger
from ipt_jax.run_folder.folder import BEST
from ipt_jax.storage import replace_text


@dataclasses.dataclass
class BestCheckpoint:
    """The evaluations of a run, by a metric that is better when it is higher.

    Attributes:
      file: where the evaluations are kept.
      metric: "psnr_y" or another metric for its mean over the tasks, "TASK/psnr_y" for one task, ""
        to choose no best checkpoint.
      patience: the number of evaluations without a better one after which to stop; 0 for never.
      seen: (step, value) of each evaluation, in order.
      group: the processes of the run. The values of process 0 decide, so that all of them do the
        same.
    """

    file: epath.Path
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
        """Reads the evaluations of a run.

        Args:
          folder: the run's folder.
          settings: the `evaluate` part of the config.
          start: the step that the run starts from; later evaluations will be repeated and are
            dropped.
          group: the processes of the run; a single one by default.
        """
        file, group = folder / BEST, group or ProcessGroup()
        seen = _read(file, settings["best"], start)
        seen = [(int(step), float(value)) for step, value in group.gather("best", seen)[0]]
        return cls(file, settings["best"], settings["patience"], seen, group)

    def add(self, step: int, scores: Mapping[str, Mapping[str, float]]) -> bool:
        """Adds an evaluation; returns whether it is the best one. Of equal ones, the first is best.

        Args:
          step: the step.
          scores: the means, `{task: {metric: value}}`.
        """
        if not self.metric:
            return False
        task, _, metric = self.metric.rpartition("/")
        names = [task] if task else list(scores)
        value = float(np.mean([scores[name][metric] for name in names]))
        value = float(self.group.gather(f"best {step}", value)[0])
        if np.isnan(value):
            logger.warning("step %d: %s is not defined for such small images", step, self.metric)
            return False
        self.seen = [*(one for one in self.seen if one[0] != step), (step, value)]
        if devices.is_main():
            described = {
                "metric": self.metric,
                "step": self.step,
                "value": dict(self.seen)[self.step or 0],
                "evaluations": self.seen,
            }
            with extra(self.file):
                replace_text(self.file, json.dumps(described, indent=1) + "\n")
        return self.step == step

    @property
    def step(self) -> int | None:
        """The step of the best evaluation, or None."""
        return max(self.seen, key=lambda one: (one[1], -one[0]))[0] if self.seen else None

    @property
    def exhausted(self) -> bool:
        """Whether `patience` evaluations have followed the best one."""
        since = [step for step, _ in self.seen if step > (self.step or 0)]
        return bool(self.patience) and len(since) >= self.patience


def _read(file: epath.Path, metric: str, start: int) -> list[tuple[int, float]]:
    """Returns the evaluations by a metric up to a step; none if the file cannot be read."""
    if not metric or not file.exists():
        return []
    try:
        old = json.loads(file.read_text())
        if old["metric"] != metric:
            return []
        return [(int(step), float(value)) for step, value in old["evaluations"] if step <= start]
    except (ValueError, KeyError, TypeError) as error:
        logger.warning(
            "%s cannot be read (%r): the best checkpoint is chosen from later evaluations only",
            file,
            error,
        )
        return []
