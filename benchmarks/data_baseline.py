"""Compares the input pipeline with one that works like the published pipelines.

In the published pipelines, a batch has one task, and imageio decodes an image anew for every crop.
A batch of crops is reduced by a bicubic in float32 that gathers the inputs of each output pixel by
index, and sums them with their weights.

    python benchmarks/data_baseline.py FOLDER [--seconds 20]

Prints one JSON object last.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import math
import os
import time

import cv2
import imageio.v3 as imageio
import numpy as np

from ipt_jax.data.pipeline import Batches
from ipt_jax.data.sources.folder import Folder
from ipt_jax.degradations.rain import Rain
from ipt_jax.images.resize import bicubic
from ipt_jax.tasks import PAPER_TASKS, make_tasks

TILE = 48


def cubic(x: np.ndarray) -> np.ndarray:
    """Returns Keys' cubic kernel with a = -1/2."""
    x = np.abs(x)
    return np.where(
        x <= 1,
        1.5 * x**3 - 2.5 * x**2 + 1,
        np.where(x <= 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0),
    )


def contributions(size: int, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns weights and indices `[outputs, taps]` of an antialiased reduction by `scale`.

    The border is symmetric.
    """
    outputs, taps = math.ceil(size / scale), 4 * scale + 2
    centre = (np.arange(outputs) + 0.5) * scale - 0.5
    index = np.floor(centre - 2 * scale)[:, None] + np.arange(taps)
    weights = cubic((centre[:, None] - index) / scale) / scale
    weights /= weights.sum(1, keepdims=True)
    mirror = np.concatenate([np.arange(size), np.arange(size)[::-1]])
    return weights.astype(np.float32), mirror[np.mod(index.astype(int), 2 * size)]


def indexed_bicubic(batch: np.ndarray, scale: int) -> np.ndarray:
    """Reduces a batch, float32 `[B, C, H, W]`, by an integer scale."""
    weights, index = contributions(batch.shape[2], scale)
    batch = np.einsum("bcokw,ok->bcow", batch[:, :, index], weights)
    weights, index = contributions(batch.shape[3], scale)
    return np.clip(np.rint(np.einsum("bchok,ok->bcho", batch[:, :, :, index], weights)), 0, 255)


class Published:
    """Makes batches of one task; the image of each crop is decoded anew."""

    def __init__(self, source: Folder, batch_size: int, crops: int):
        self.source, self.batch_size, self.crops = source, batch_size, crops
        self.rain = Rain()

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(step)
        # The tasks take turns, so that each has the same number of samples.
        name = PAPER_TASKS[step % len(PAPER_TASKS)]
        scale = int(name[2]) if name.startswith("sr") else 1
        side = TILE * scale
        hq = np.empty((self.batch_size, 3, side, side), np.float32)
        pictures = rng.permutation(len(self.source))[: self.batch_size // self.crops].repeat(
            self.crops
        )
        for row in range(self.batch_size):
            picture = imageio.imread(io.BytesIO(self.source[int(pictures[row % len(pictures)])]))
            picture = np.stack([picture] * 3, 2) if picture.ndim == 2 else picture[:, :, :3]
            if min(picture.shape[:2]) < side:
                picture = cv2.resize(
                    picture, (max(side, picture.shape[1]), max(side, picture.shape[0]))
                )
            y, x = (int(rng.integers(size - side + 1)) for size in picture.shape[:2])
            hq[row] = picture[y : y + side, x : x + side].transpose(2, 0, 1)
        if scale > 1:
            lq = indexed_bicubic(hq, scale)
        elif name == "derain":
            lq = np.stack(
                [
                    self.rain(image.transpose(1, 2, 0).astype(np.uint8), rng).transpose(2, 0, 1)
                    for image in hq
                ]
            )
        else:
            lq = np.clip(hq + rng.normal(0, int(name[-2:]), hq.shape).astype(np.float32), 0, 255)
        return lq, hq


def speed(make: object, batch_size: int, seconds: float) -> float:
    """Returns samples per CPU second of one thread, over complete rounds of the six tasks."""
    make(0)
    steps, began, cpu = 0, time.perf_counter(), time.thread_time()
    while time.perf_counter() - began < seconds or steps % 6:
        make(1 + steps)
        steps += 1
    return steps * batch_size / (time.thread_time() - cpu)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--batch-size", type=int, default=96)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    cv2.setNumThreads(0)
    # These values are never clipped between the two passes of a bicubic.
    check = np.random.default_rng(0).integers(90, 166, (2, 96, 96, 3), dtype=np.uint8)
    # Both ways compute the same, except for rounding between the passes.
    for scale in (2, 3, 4):
        theirs = indexed_bicubic(check.transpose(0, 3, 1, 2).astype(np.float32), scale).transpose(
            0, 2, 3, 1
        )
        assert np.abs(theirs - np.stack([bicubic(image, scale) for image in check])).max() <= 2
    source, tasks = Folder(options.folder), make_tasks(PAPER_TASKS)
    found: dict[str, object] = {"cores": os.cpu_count(), "load": os.getloadavg()}
    ours = Batches(source, tasks, seed=0, batch_size=options.batch_size, tile=TILE, group=2)
    for crops in (1, 4):
        mine = speed(
            dataclasses.replace(ours, crops=crops), options.batch_size, options.seconds / 2
        )
        theirs = speed(
            Published(source, options.batch_size, crops), options.batch_size, options.seconds
        )
        found[f"{crops} crops"] = {
            "this": round(mine),
            "published way": round(theirs),
            "ratio": round(mine / theirs, 2),
        }
        print(
            f"{crops} crop(s): {mine:.0f} against {theirs:.0f} samples a CPU second: "
            f"{mine / theirs:.1f}x",
            flush=True,
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
