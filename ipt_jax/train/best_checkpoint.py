"""The best evaluation so far, by a named metric, and when to stop early. Kept in `best.json` beside
the checkpoints.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from ipt_jax.distributed import devices
from ipt_jax.distributed import process_group as hosts
from ipt_jax.log import extra, logger
from ipt_jax.run_folder.folder import BEST


@dataclasses.dataclass
class BestCheckpoint:
    """Evaluations of a run, by a metric of which more is better.

    Attributes:
      file: where they are kept.
      metric: "psnr_y" and the like, the mean over tasks, or "TASK/psnr_y"; "" for none.
      patience: evaluations without a better one after which to stop; 0 for never.
      seen: (step, value), in order.
      line: to the run's other processes: process 0's values decide, so that all do the same.
    """

    file: epath.Path
    metric: str
    patience: int
    seen: list[tuple[int, float]]
    line: hosts.ProcessGroup = dataclasses.field(default_factory=hosts.ProcessGroup)

    @classmethod
    def open(
        cls,
        folder: epath.Path,
        settings: Mapping[str, Any],
        start: int,
        line: hosts.ProcessGroup | None = None,
    ) -> BestCheckpoint:
        """Of a run that starts at a step: what was seen later will be seen again."""
        best = cls(
            folder / BEST, settings["best"], settings["patience"], [], line or hosts.ProcessGroup()
        )
        if best.metric and best.file.exists():
            try:
                old = json.loads(best.file.read_text())
                if old["metric"] == best.metric:
                    best.seen = [
                        (int(step), float(value))
                        for step, value in old["evaluations"]
                        if step <= start
                    ]
            except (ValueError, KeyError, TypeError) as error:
                logger.warning(
                    "%s cannot be read (%r): the best checkpoint is looked for from now on",
                    best.file,
                    error,
                )
        best.seen = [
            (int(step), float(value)) for step, value in best.line.gather("best", best.seen)[0]
        ]
        return best

    def add(self, step: int, scores: Mapping[str, Mapping[str, float]]) -> bool:
        """Takes an evaluation's means, `{task: {metric: value}}`; whether it is the best so far.
        The earliest wins a draw.
        """
        if not self.metric:
            return False
        task, _, metric = self.metric.rpartition("/")
        names = [task] if task else list(scores)
        value = float(
            self.line.gather(
                f"best {step}", float(np.mean([scores[name][metric] for name in names]))
            )[0]
        )
        self.seen = [*(one for one in self.seen if one[0] != step), (step, value)]
        if devices.is_main():
            fresh = self.file.parent / f"{BEST}.new"
            described = {
                "metric": self.metric,
                "step": self.step,
                "value": dict(self.seen)[self.step or 0],
            }
            with extra(self.file):
                fresh.write_text(
                    json.dumps({**described, "evaluations": self.seen}, indent=1) + "\n"
                )
                fresh.replace(self.file)
        return self.step == step

    @property
    def step(self) -> int | None:
        """The best evaluation's step, or None."""
        return max(self.seen, key=lambda one: (one[1], -one[0]))[0] if self.seen else None

    @property
    def exhausted(self) -> bool:
        """Whether patience is at its end."""
        since = [step for step, _ in self.seen if step > (self.step or 0)]
        return bool(self.patience) and len(since) >= self.patience
