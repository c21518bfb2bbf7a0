"""Measures what a task changes in images that need no restoring.

    python benchmarks/clean_input.py --weights ipt_small --data photographs --tasks denoise,jpeg

A task that is used blindly, such as `denoise` or `jpeg`, should leave a clean image as it is. The
command reports, for each task:

- the PSNR (RGB) of the output against the clean input, over the images of a folder: mean, lowest
  and the name of the lowest;
- the largest change of a flat field, in levels of 0..255: of a pixel, and of a field's mean. The
  fields are grey at each level from 0 to 255 and the six saturated colours, 96x96 pixels.

Output: a Markdown table on the terminal, and with `--out` a JSON file with the values of each image
and each level.
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
from typing import Any

import numpy as np

import ipt_jax
from ipt_jax import metrics
from ipt_jax.images.decode import decode

SIDE = 96


def flat_fields() -> dict[str, np.ndarray]:
    """Returns flat images `[96, 96, 3]` of uint8 by name."""
    colours = {f"grey {level}": (level, level, level) for level in range(256)}
    for colour in itertools.product((0, 255), repeat=3):
        if len(set(colour)) > 1:
            colours["rgb " + " ".join(map(str, colour))] = colour
    return {
        name: np.broadcast_to(np.array(colour, np.uint8), (SIDE, SIDE, 3))
        for name, colour in colours.items()
    }


def measure(model: Any, task: str, files: list[pathlib.Path]) -> dict[str, Any]:
    """Returns the PSNR of each image and the changes `(pixel, mean)` of each flat field."""
    psnr = {}
    for file in files:
        clean = decode(file.read_bytes())
        psnr[file.name] = float(metrics.psnr(model.restore(clean, task=task), clean, "rgb"))
    changes = {}
    for name, field in flat_fields().items():
        change = np.asarray(model.restore(field, task=task), float) - field
        changes[name] = (float(np.abs(change).max()), float(np.abs(change.mean((0, 1))).max()))
    return {"psnr": psnr, "flat": changes}


def summary(results: dict[str, dict[str, Any]]) -> str:
    """Returns the Markdown table of all tasks."""
    lines = [
        "| task | images | PSNR mean | lowest | flat fields: a pixel changes by | a mean by |",
        "|---|---|---|---|---|---|",
    ]
    for task, result in results.items():
        psnr, flat = result["psnr"], result["flat"]
        lowest = min(psnr, key=lambda name: psnr[name])
        pixel = max(flat, key=lambda name: flat[name][0])
        mean = max(flat, key=lambda name: flat[name][1])
        lines.append(
            f"| {task} | {len(psnr)} | {np.mean(list(psnr.values())):.2f} | {psnr[lowest]:.2f} "
            f"({lowest}) | {flat[pixel][0]:.2f} ({pixel}) | {flat[mean][1]:.2f} ({mean}) |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", required=True, help="a run, a weights folder or a file")
    parser.add_argument("--data", required=True, type=pathlib.Path, help="a folder of clean images")
    parser.add_argument("--tasks", default="denoise,jpeg", help="a comma list; scale 1 only")
    parser.add_argument("--limit", type=int, default=0, help="at most this many images; 0 for all")
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file to write")
    flags = parser.parse_args()
    files = sorted(f for f in flags.data.iterdir() if f.suffix.lower() in (".png", ".webp"))
    files = files[: flags.limit or None]
    if not files:
        parser.error(f"{flags.data} has no PNG or WebP image")
    model = ipt_jax.load(flags.weights)
    results = {task: measure(model, task, files) for task in flags.tasks.split(",")}
    print(summary(results))
    if flags.out:
        flags.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
