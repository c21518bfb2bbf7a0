"""`ipt evaluate`: scores weights, or pictures that something else restored, on benchmark sets."""

from __future__ import annotations

import argparse
from typing import Any

from ipt_jax.cli.flags import add_tiling_flags, add_weights_flags

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
    add_weights_flags(parser, required=True, help="what to score")
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
    add_tiling_flags(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the noise and of made rain")
    parser.add_argument(
        "--noise-clip",
        default="on",
        choices=("on", "off"),
        help="whether noisy inputs are clipped to 0..255",
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
