"""Makes a sheet with a degraded, a restored and a clean crop for each task of a model.

    python examples/showcase.py [--weights WEIGHTS] --out restored.png

The photographs come with scikit-image (pip install scikit-image) and are in the public domain or
CC0. For super-resolution the degraded crop is enlarged (bicubic). PSNR on Y is that of the complete
image.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import ipt_jax
from ipt_jax.data.sources.embedded import embedded
from ipt_jax.evaluate.scoring import BenchmarkImage, baseline, make_lq
from ipt_jax.metrics import psnr
from ipt_jax.restore.images import to_uint8
from ipt_jax.tasks import PAPER_TASKS
from ipt_jax.weights.default import default_weights

# In pixels: side of a crop, gap between crops, height of a line of text.
SIDE, GAP, LINE = 192, 8, 24
# (photograph, left, top) of the crops, which the tasks show in turn: eyes, a cat, a cup, a badge,
# the cat again and a launch pad.
CROPS = (
    ("astronaut", 150, 60),
    ("chelsea", 120, 70),
    ("coffee", 250, 40),
    ("astronaut", 300, 300),
    ("chelsea", 150, 60),
    ("rocket", 240, 200),
)


def block(
    name: str,
    border: int,
    clean: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    left: int,
    top: int,
) -> Image.Image:
    """Returns three crops side by side under a line with the task and its scores.

    Args:
      name: name of the task.
      border: pixels that are left out of the scores on every side.
      clean: uint8 `[H, W, 3]`.
      before: the degraded image, uint8 `[H, W, 3]`.
      after: the restored image, uint8 `[H, W, 3]`.
      left: first column of the crops.
      top: first row of the crops.
    """
    scores = [psnr(image, clean, channel="y", border=border) for image in (before, after)]
    out = Image.new("RGB", (3 * SIDE + 2 * GAP, LINE + SIDE), "white")
    for i, image in enumerate((before, after, clean)):
        out.paste(
            Image.fromarray(image[top : top + SIDE, left : left + SIDE]), (i * (SIDE + GAP), LINE)
        )
    label = f"{name}: {scores[0]:.2f} dB, restored {scores[1]:.2f} dB, clean"
    ImageDraw.Draw(out).text((2, 2), label, fill="black", font=ImageFont.load_default(16))
    return out


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", help="default: the weights in the package")
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="the image to write: .png, .jpg"
    )
    options = parser.parse_args()
    model = ipt_jax.load(options.weights or default_weights(PAPER_TASKS))
    photographs = dict(zip(("astronaut", "chelsea", "coffee", "rocket"), embedded("all")))
    blocks = []
    for (name, task), (photo, left, top) in zip(model.tasks.items(), itertools.cycle(CROPS)):
        lq, clean = make_lq(BenchmarkImage(photo, photographs[photo]), task, seed=0)
        blocks.append(
            block(
                name,
                task.border,
                clean,
                baseline(lq, task),
                to_uint8(model.restore(lq, task=name)),
                left,
                top,
            )
        )
    width, height = blocks[0].size
    rows = (len(blocks) + 1) // 2
    page = Image.new("RGB", (2 * width + 3 * GAP, rows * (height + GAP) + GAP), "white")
    for i, one in enumerate(blocks):
        page.paste(one, (GAP + i % 2 * (width + GAP), GAP + i // 2 * (height + GAP)))
    page.save(options.out, quality=92)
    print(f"{options.out}: {page.width}x{page.height}")


if __name__ == "__main__":
    main()
