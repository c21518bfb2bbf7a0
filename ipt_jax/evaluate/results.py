"""Means and tables of scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ipt_jax.evaluate.scoring import NIQE, Score
from ipt_jax.evaluate.sets import SetSummary
from ipt_jax.messages import listed, printable


@dataclasses.dataclass
class Row:
    """A set at a task.

    Attributes:
      set: the set.
      task: the task's label.
      noise_clipped: whether noisy inputs were clipped to 0..255; None where the task makes no
        noise.
      scores: the score of each image.
      tiles: number of tiles that were restored.
      seconds: time that restoring and scoring took.
      too_small: names of the images that are smaller than the task's scale; they have no scores.
    """

    set: SetSummary
    task: str
    noise_clipped: bool | None
    scores: list[Score]
    tiles: int
    seconds: float
    too_small: list[str] = dataclasses.field(default_factory=list)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics: `METRICS` and those that the user asked for."""
        return tuple(self.scores[0].after)

    @property
    def mean(self) -> Score:
        """The mean over the images."""
        return mean_score(self.scores)

    @property
    def noise(self) -> str:
        """The noise that was made: "colour", "grey", "grey 2 of 14"; "" for tasks without noise."""
        kinds = [score.noise for score in self.scores]
        grey = kinds.count("grey")
        return kinds[0] if not grey or grey == len(kinds) else f"grey {grey} of {len(kinds)}"

    def differences(self) -> list[dict[str, float]]:
        """Returns for each image by how much the scores of the result exceed those of the input."""
        return [{m: s.after[m] - s.before[m] for m in s.after} for s in self.scores]

    def standard_errors(self) -> dict[str, dict[str, float]]:
        """Returns the standard errors of the means, `{"input" | "result" | "gain": {metric: ...}}`.

        The images are taken as a sample of the images that a set stands for. The error of a gain is
        that of the images' differences, so it is much smaller than those of the two means.
        """
        sides = {
            "input": [score.before for score in self.scores],
            "result": [score.after for score in self.scores],
            "gain": self.differences(),
        }
        return {
            name: {m: standard_error([side[m] for side in values]) for m in self.metrics}
            for name, values in sides.items()
        }

    def notes(self) -> list[str]:
        """Returns what does not show in the row's numbers, one sentence each."""
        name = f"{self.set.name} {self.task}"
        notes = []
        if self.too_small:
            notes.append(
                f"{name}: not scored, because smaller than the scale: {listed(self.too_small)}"
            )
        for metric in [m for m in self.metrics if not m.endswith("_rgb")]:
            none = [score.picture for score in self.scores if np.isnan(score.after[metric])]
            if none:
                notes.append(
                    f"{name}: too small for {metric.split('_')[0].upper()}, and left out of its "
                    f"mean: {listed(none)}"
                )
        return notes

    def as_json(self) -> dict[str, Any]:
        """Returns the row as `ipt evaluate --json` writes it."""
        mean = self.mean
        return {
            "set": self.set.name,
            "task": self.task,
            "pictures": len(self.scores),
            "layout": self.set.words,
            "input": json_numbers(mean.before),
            "result": json_numbers(mean.after),
            "gain": json_numbers(_average(self.differences())),
            "standard_error": {
                side: json_numbers(values) for side, values in self.standard_errors().items()
            },
            "noise": self.noise,
            "noise_clipped": self.noise_clipped,
            "too_small": self.too_small,
            "tiles": self.tiles,
            "seconds": round(self.seconds, 3),
            "scores": [
                {
                    "picture": score.picture,
                    "input": json_numbers(score.before),
                    "result": json_numbers(score.after),
                    "noise": score.noise,
                }
                for score in self.scores
            ],
        }


def json_numbers(values: dict[str, float]) -> dict[str, Any]:
    """Returns numbers as JSON has them; `numbers_of` reads them back."""
    # The PSNR of equal images is infinite, and JSON has no infinity. A number that is not defined,
    # such as the SSIM of a tiny image, is null.
    return {
        k: v if np.isfinite(v) else None if np.isnan(v) else "inf" if v > 0 else "-inf"
        for k, v in values.items()
    }


def numbers_of(values: dict[str, Any]) -> dict[str, float]:
    """Returns the numbers that `json_numbers` wrote."""
    return {k: float("nan") if v is None else float(v) for k, v in values.items()}


def standard_error(values: Sequence[float]) -> float:
    """Returns the standard error of a mean: the standard deviation (n - 1) over the root of n.

    NaN values are left out. The result is NaN for less than two values, or if one is infinite.
    """
    there = np.array([value for value in values if not np.isnan(value)])
    if len(there) < 2 or not np.isfinite(there).all():
        return float("nan")
    return float(there.std(ddof=1) / np.sqrt(len(there)))


def _average(sides: Sequence[dict[str, float]]) -> dict[str, float]:
    """Returns the means over images, without values that are not defined (NaN)."""
    there = {m: [side[m] for side in sides if not np.isnan(side[m])] for m in sides[0]}
    return {m: float(np.mean(values)) if values else float("nan") for m, values in there.items()}


def mean_score(scores: Sequence[Score]) -> Score:
    """Returns the mean over the images of one task."""
    return Score(
        f"mean of {len(scores)}",
        scores[0].task,
        _average([score.before for score in scores]),
        _average([score.after for score in scores]),
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
    """Returns a table with a line for each set and task: input -> result, and the gain in PSNR."""
    noise = max((len(row.noise) for row in rows), default=0)
    noise = max(noise, len("noise")) + 2 if noise else 0
    with_niqe = any(NIQE in row.metrics for row in rows)
    lines = [
        f"{'set':<10} {'task':<13} {'n':>3}  {'noise' if noise else '':<{noise}}"
        f"{'PSNR-Y':>25} {'gain':>11}  {'PSNR-RGB':>25} {'gain':>11}  {'SSIM-Y':>15}  "
        f"{'SSIM-RGB':>15}  {f'{NIQE.upper():>14}  ' if with_niqe else ''}{'tiles/s':>8}"
    ]
    for row in rows:
        b, a, errors = row.mean.before, row.mean.after, row.standard_errors()
        gain = _average(row.differences())
        cells = []
        for m in ("psnr_y", "psnr_rgb"):
            before = _with_error(f"{b[m]:.2f}", errors["input"][m])
            after = _with_error(f"{a[m]:.2f}", errors["result"][m])
            cells.append(f"{before + ' -> ' + after:>25}")
            cells[-1] += f" {_with_error(f'{gain[m]:+.2f}', errors['gain'][m]):>11}"
        cells += [f"{f'{b[m]:.4f} -> {a[m]:.4f}':>15}" for m in ("ssim_y", "ssim_rgb")]
        if with_niqe:
            cells.append(f"{f'{b[NIQE]:.2f} -> {a[NIQE]:.2f}':>14}")
        lines.append(
            f"{printable(row.set.name):<10} {row.task:<13} {len(row.scores):>3}  "
            f"{row.noise:<{noise}}"
            + "  ".join(cells)
            + (f"  {row.tiles / row.seconds:8.1f}" if row.tiles else "")
        )
    if with_niqe:
        lines.append("NIQE needs no clean image; lower is better")
    lines.append("± is the standard error of a mean over the images")
    return "\n".join([*lines, *(note for row in rows for note in row.notes())])


def _with_error(number: str, error: float) -> str:
    return number if np.isnan(error) else f"{number}±{error:.2f}"
