"""Draws the losses of several runs over their steps, from their logs.

python -m studies.curves NAME=metrics.jsonl ... -o curves.png
"""

from __future__ import annotations

import argparse
import math
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from etils import epath

from ipt_jax.run_folder import metrics_log
from studies.study import mean_l1, smooth


def read_losses(file: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the steps of a run's log, and the mean L1 over tasks (0..255) of each.

    Raises:
      ValueError: the file is no run's log.
    """
    points = [(line["step"], mean_l1(line)) for line in metrics_log.read_lines(epath.Path(file))]
    points = [(step, mean) for step, mean in points if not math.isnan(mean)]
    if not points:
        raise ValueError(f"{file}: no line has losses; give a run's metrics.jsonl")
    steps, means = zip(*points, strict=True)
    return np.array(steps), np.array(means)


def draw_curves(
    runs: dict[str, tuple[np.ndarray, np.ndarray]], file: pathlib.Path, width: int = 5
) -> None:
    """Draws a curve for each run. Each point is the mean of `width` lines of the run's log."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for name, (steps, means) in runs.items():
        axes.plot(steps, smooth(means, width), label=name)
    axes.set(xlabel="step", ylabel="L1, mean over tasks (0..255)", xscale="log", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=110)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws the curves, and prints the mean loss of each run.

    The mean is over the last fifth of the steps that all runs have.
    """
    parser = argparse.ArgumentParser(
        prog="python -m studies.curves",
        description="Draws the losses of several runs over their steps.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="NAME=LOG",
        help="a run's metrics.jsonl, and its name in the plot",
    )
    parser.add_argument("-o", "--out", required=True, type=pathlib.Path, metavar="PNG")
    options = parser.parse_args(arguments)
    runs = {}
    for text in options.runs:
        name, equals, file = text.partition("=")
        if not equals:
            parser.error(f"{text!r}: give NAME=LOG")
        try:
            runs[name] = read_losses(pathlib.Path(file))
        except (OSError, ValueError) as error:
            print(f"{parser.prog}: {error}", file=sys.stderr)
            return 2
    draw_curves(runs, options.out)
    last = min(steps[-1] for steps, _ in runs.values())
    for name, (steps, means) in runs.items():
        late = means[(steps <= last) & (steps > 0.8 * last)]
        print(f"{name}: {late.mean():.3f} over the last fifth of the first {last} steps")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
