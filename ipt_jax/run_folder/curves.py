"""Curves of a run as a picture: `curves.png` in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etils import epath


def save_curves(file: epath.Path, lines: Sequence[dict[str, Any]]) -> None:
    """Draws loss, L1 of each task, learning rate and PSNR on held-out pictures against steps.

    Args:
      file: the PNG to write.
      lines: those of the run's metrics (log.MetricsLog), in order.
    """
    import io

    # Late: a second; and without pyplot, which keeps what it drew
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    losses, rates, scores = figure.subplots(1, 3)
    training = [line for line in lines if "loss" in line]
    evaluations = [line for line in lines if "loss" not in line]

    def draw(axes: Any, rows: Sequence[dict[str, Any]], key: str, label: str, **style: Any) -> None:
        points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)

    draw(losses, training, "loss", "loss", color="black")
    for key in sorted({key for line in training for key in line if key.startswith("l1/")}):
        draw(losses, training, key, key, linewidth=1)
    draw(rates, training, "lr", "learning rate")
    for key in sorted({key for line in evaluations for key in line if key.endswith("/psnr_y")}):
        draw(scores, evaluations, key, key.split("/")[-2], marker="o", markersize=3)
    titles = {
        losses: "loss, L1 (0..255)",
        rates: "learning rate",
        scores: "PSNR-Y, held-out pictures (dB)",
    }
    for axes, title in titles.items():
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    if any((line.get("loss") or 0) > 0 for line in training) and all(
        (line.get("loss") or 1) > 0 for line in training
    ):
        losses.set_yscale("log")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    file.write_bytes(buffer.getvalue())
