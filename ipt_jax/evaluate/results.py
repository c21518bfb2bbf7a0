"""Means and tables of scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ipt_jax.evaluate.scoring import Score
from ipt_jax.evaluate.sets import BenchmarkSet
from ipt_jax.evaluate.trials import Trial
from ipt_jax.messages import printable
from ipt_jax.metrics import METRICS


@dataclasses.dataclass
class Row:
    """A set at a task.

    Attributes:
      set: the set.
      trial: the task.
      scores: the score of each image.
      tiles: number of tiles that were restored.
      seconds: time that restoring and scoring took.
    """

    set: BenchmarkSet
    trial: Trial
    scores: list[Score]
    tiles: int
    seconds: float

    @property
    def mean(self) -> Score:
        """The mean over the images."""
        return mean_score(self.scores)

    def as_json(self) -> dict[str, Any]:
        """Returns the row as `ipt evaluate --json` writes it."""
        mean = self.mean
        return {
            "set": self.set.name,
            "task": self.trial.label,
            "pictures": len(self.scores),
            "layout": self.set.layout.words,
            "input": _json_numbers(mean.before),
            "result": _json_numbers(mean.after),
            "tiles": self.tiles,
            "seconds": round(self.seconds, 3),
            "scores": [
                {
                    "picture": score.picture,
                    "input": _json_numbers(score.before),
                    "result": _json_numbers(score.after),
                }
                for score in self.scores
            ],
        }


def _json_numbers(values: dict[str, float]) -> dict[str, Any]:
    # The PSNR of equal images is infinite, and JSON has no infinity.
    return {k: v if np.isfinite(v) else "inf" for k, v in values.items()}


def mean_score(scores: Sequence[Score]) -> Score:
    """Returns the mean over the images of one task."""

    def average(sides: Sequence[dict[str, float]]) -> dict[str, float]:
        return {metric: float(np.mean([side[metric] for side in sides])) for metric in METRICS}

    return Score(
        f"mean of {len(scores)}",
        scores[0].task,
        average([score.before for score in scores]),
        average([score.after for score in scores]),
    )


def format_means(means: Sequence[Score]) -> str:
    """Returns a table with a line for each task: input (bicubic for SR), result and gain."""
    lines = [
        f"{'task':<12} {'PSNR-Y':>7} {'restored':>9} {'gain':>6}   {'PSNR-RGB':>8} "
        f"{'restored':>9}   {'SSIM-Y':>7} {'restored':>9}"
    ]
    for s in means:
        b, a = s.before, s.after
        lines.append(
            f"{s.task:<12} {b['psnr_y']:7.2f} {a['psnr_y']:9.2f} {a['psnr_y'] - b['psnr_y']:+6.2f} "
            f"  {b['psnr_rgb']:8.2f} {a['psnr_rgb']:9.2f}   {b['ssim_y']:7.4f} {a['ssim_y']:9.4f}"
        )
    return "\n".join(lines)


def format_rows(rows: Sequence[Row]) -> str:
    """Returns a table with a line for each set and task: input -> result."""
    lines = [
        f"{'set':<10} {'task':<13} {'n':>3}  {'PSNR-Y':>15}  {'PSNR-RGB':>15}  {'SSIM-Y':>15}  "
        f"{'SSIM-RGB':>15}  {'tiles/s':>8}"
    ]
    for row in rows:
        b, a = row.mean.before, row.mean.after
        cells = [
            f"{b[m]:6.2f} -> {a[m]:5.2f}" if m.startswith("psnr") else f"{b[m]:.4f} -> {a[m]:.4f}"
            for m in ("psnr_y", "psnr_rgb", "ssim_y", "ssim_rgb")
        ]
        lines.append(
            f"{printable(row.set.name):<10} {row.trial.label:<13} {len(row.scores):>3}  "
            + "  ".join(f"{c:>15}" for c in cells)
            + (f"  {row.tiles / row.seconds:8.1f}" if row.tiles else "")
        )
    return "\n".join(lines)
