"""The curves of a run as an image, `curves.png` in its folder."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from etils import epath


def save_curves(file: epath.Path, lines: Sequence[dict[str, Any]]) -> None:
    """Plots loss, L1 of each task, learning rate and held-out PSNR against the step.

    Args:
      file: the PNG file to write.
      lines: the lines of the run's metrics, in order (`metrics_log.MetricsLog.lines`).
    """
    # Importing matplotlib takes a second. pyplot is avoided because it keeps every figure alive.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    losses, rates, scores = figure.subplots(1, 3)
    training = [line for line in lines if "loss" in line]
    evaluations = [line for line in lines if "loss" not in line]

    _plot(losses, training, "loss", "loss", color="black")
    for key in sorted({key for line in training for key in line if key.startswith("l1/")}):
        _plot(losses, training, key, key, linewidth=1)
    _plot(rates, training, "lr", "learning rate")
    for key in sorted({key for line in evaluations for key in line if key.endswith("/psnr_y")}):
        _plot(scores, evaluations, key, key.split("/")[-2], marker="o", markersize=3)
    titles = {
        losses: "loss, L1 (0..255)",
        rates: "learning rate",
        scores: "PSNR-Y, held-out images (dB)",
    }
    for axes, title in titles.items():
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    values = [line["loss"] for line in training if line.get("loss")]
    if values and min(values) > 0:
        losses.set_yscale("log")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    file.write_bytes(buffer.getvalue())


def _plot(axes: Any, rows: Sequence[dict[str, Any]], key: str, label: str, **style: Any) -> None:
    """Plots the values of a key that are neither missing nor null against the step."""
    points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    if points:
        # Matplotlib takes text between two dollar signs for a formula.
        axes.plot(*zip(*points, strict=True), label=label.replace("$", r"\$"), **style)
