"""Draws the README's picture: for several tasks a clean, a degraded and a restored crop.

    python benchmarks/example_picture.py --weights ipt_small --data benchmarks --out restored.jpg

Each row is `SET/IMAGE TASK`, where the task may carry a strength (`denoise@25`, `jpeg@20`). The
degraded images are the ones that `ipt evaluate` scores; for super-resolution their bicubic
enlargement is shown.
"""

from __future__ import annotations

import argparse
import pathlib

import cv2

import ipt_jax
from ipt_jax.evaluate.scoring import score_network
from ipt_jax.evaluate.sets import find_sets
from ipt_jax.evaluate.trials import Trial
from ipt_jax.images.sheet import contact_sheet

ROWS = (
    "Set5/butterfly sr3",
    "CBSD68/119082 denoise@25",
    "CBSD68/148026 denoise50",
    "CBSD68/101087 jpeg@20",
    "Set5/bird photo2",
    "Rain100L/1 derain",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", required=True, help="a run, a weights folder or a file")
    parser.add_argument("--data", required=True, help="the folder of the benchmark sets")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a PNG or JPEG to write")
    parser.add_argument("--rows", nargs="+", default=ROWS, help="'SET/IMAGE TASK' for each row")
    parser.add_argument("--side", type=int, default=240, help="side of a crop in pixels")
    flags = parser.parse_args()
    model = ipt_jax.load(flags.weights)
    rows = []
    for row in flags.rows:
        place, label = row.rsplit(" ", 1)
        name, image = place.split("/", 1)
        trial = Trial.parse(label, dict(model.tasks))
        (one,) = find_sets(flags.data, [name])
        found = [i for i in one.pictures(trial.task) if pathlib.Path(i.name).stem == image]
        if not found:
            parser.error(f"{name} has no image {image}: {', '.join(list(one.hq)[:8])}, ...")
        (result,) = score_network(
            lambda task, head=trial.head: model.bind(head),
            found,
            trial.task,
            tile=model.model.tile,
            overlap=12,
            batch=16,
        )
        score, clean, degraded, restored = result
        gain = f"{score.before['psnr_rgb']:.1f} -> {score.after['psnr_rgb']:.1f} dB"
        rows.append((f"{label}, {gain}", clean, degraded, restored))
    sheet = contact_sheet(rows, flags.side)
    cv2.imwrite(str(flags.out), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main()
