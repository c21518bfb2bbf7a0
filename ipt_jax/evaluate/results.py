"""Means and tables of scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ipt_jax.evaluate.scoring import Score
from ipt_jax.evaluate.sets import BenchmarkSet
from ipt_jax.evaluate.trials import Trial
from ipt_jax.metrics import METRICS


def mean(scores: Sequence[Score]) -> Score:
    """The mean over the pictures of one task."""
    average = lambda side: {
        m: float(np.mean([getattr(s, side)[m] for s in scores])) for m in METRICS
    }  # noqa: E731
    return Score(f"mean of {len(scores)}", scores[0].task, average("before"), average("after"))


def table(means: Sequence[Score]) -> str:
    """A table for the terminal: PSNR and SSIM of the input (SR: bicubic) and of the restored
    picture.
    """
    lines = [
        f"{'task':<12} {'PSNR-Y':>7} {'restored':>9} {'gain':>6}   {'PSNR-RGB':>8} {'restored':>9}   "
        f"{'SSIM-Y':>7} {'restored':>9}"
    ]
    for s in means:
        b, a = s.before, s.after
        lines.append(
            f"{s.task:<12} {b['psnr_y']:7.2f} {a['psnr_y']:9.2f} {a['psnr_y'] - b['psnr_y']:+6.2f}   "
            f"{b['psnr_rgb']:8.2f} {a['psnr_rgb']:9.2f}   {b['ssim_y']:7.4f} {a['ssim_y']:9.4f}"
        )
    return "\n".join(lines)


@dataclasses.dataclass
class Row:
    """A set at a task: every picture's score, their mean, tiles and seconds."""

    set: BenchmarkSet
    trial: Trial
    scores: list[Score]
    tiles: int
    seconds: float

    @property
    def mean(self) -> Score:
        return mean(self.scores)

    def as_json(self) -> dict[str, Any]:
        pictures = [
            {"picture": s.picture, "input": _finite(s.before), "result": _finite(s.after)}
            for s in self.scores
        ]
        return {
            "set": self.set.name,
            "task": self.trial.label,
            "pictures": len(self.scores),
            "layout": self.set.layout.words,
            "input": _finite(self.mean.before),
            "result": _finite(self.mean.after),
            "tiles": self.tiles,
            "seconds": round(self.seconds, 3),
            "scores": pictures,
        }


def _finite(values: dict[str, float]) -> dict[str, Any]:
    # Equal pictures; JSON has no infinity
    return {k: v if np.isfinite(v) else "inf" for k, v in values.items()}
