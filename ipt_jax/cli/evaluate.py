"""`ipt evaluate`: scores weights, or pictures that something else restored, on benchmark sets."""

from __future__ import annotations

import argparse
from typing import Any

from ipt_jax.restore.tiling import PROTOCOLS

DESCRIPTION = """Scores weights on whole pictures: PSNR and SSIM, on Y and on RGB, of the input and of the result, for
each set and task. WEIGHTS is a run's folder (DIR@STEP for one of its checkpoints), a weights folder, a file of the
authors', or one of the words: input (the degraded picture itself), bicubic (for super-resolution), outputs:DIR
(pictures restored by something else, found by name)."""


def add_parser(commands: Any) -> None:
    """Adds the command to the sub-parsers of `ipt`."""
    parser = commands.add_parser(
        "evaluate",
        allow_abbrev=False,
        help="score weights on benchmark sets",
        description=DESCRIPTION,
    )
    parser.add_argument("--weights", required=True, metavar="WEIGHTS", help="what to score")
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="a folder of sets, or one set, or pictures"
    )
    parser.add_argument(
        "--sets", default="", metavar="A,B", help="sets in DIR; all of them if not given"
    )
    parser.add_argument(
        "--tasks",
        default="",
        metavar="A,B",
        help="tasks; TASK@SIGMA scores a denoising task at another sigma",
    )
    parser.add_argument(
        "--protocol",
        default="blend",
        choices=PROTOCOLS,
        help="how whole pictures are cut into tiles",
    )
    parser.add_argument(
        "--overlap",
        type=int,
        default=12,
        metavar="N",
        help="pixels by which blend's tiles overlap at least",
    )
    parser.add_argument(
        "--ensemble", action="store_true", help="mean over 8 flips and transpositions"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise and of made rain")
    parser.add_argument(
        "--noise-clip",
        default="on",
        choices=("on", "off"),
        help="whether noisy inputs are clipped to 0..255",
    )
    parser.add_argument(
        "--batch", type=int, default=16, metavar="N", help="tiles a call, for each device"
    )
    parser.add_argument(
        "--dtype", default="float32", choices=("float32", "bfloat16"), help="what is computed in"
    )
    parser.add_argument(
        "--heads",
        type=int,
        metavar="N",
        help="attention heads of an authors' file; 12 if not given",
    )
    parser.add_argument(
        "--weights-tasks",
        metavar="A,B",
        help="tasks of an authors' file, where its shapes do not tell",
    )
    parser.add_argument(
        "--raw", action="store_true", help="a run's weights themselves, not their moving average"
    )
    parser.add_argument(
        "--limit", type=int, default=0, metavar="N", help="only the first N pictures of each set"
    )
    parser.add_argument("--json", metavar="FILE", help="write all scores there")
    parser.add_argument(
        "--report", metavar="FILE.html", help="write a page with scores and pictures there"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code.

    Raises:
      WeightsError, DataError, UsageError: wrong input; nothing was written.
    """
    from ipt_jax.evaluate import benchmark

    return benchmark.run(options)
