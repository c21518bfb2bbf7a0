"""`ipt evaluate`: scores weights, or images that other software restored, on benchmark sets."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ipt_jax.cli.flags import (
    add_shard_flag,
    add_task_flag,
    add_tiling_flags,
    add_weights_flags,
    load_weights,
    shard_of,
    tiling_of,
    words_of,
)
from ipt_jax.errors import UsageError

if TYPE_CHECKING:
    from ipt_jax.evaluate.candidates import Candidate

DESCRIPTION = (
    "Scores weights on complete images: PSNR and SSIM, on Y and on RGB, of the input and of the "
    "result, for each set and task. WEIGHTS is a run's folder (DIR@STEP for one of its "
    "checkpoints), a weights folder, a file of the authors' weights, or one of these words: input "
    "(the degraded image itself), bicubic (for super-resolution), outputs:DIR (images that other "
    "software restored, found by name)."
)


def add_parser(commands: Any) -> None:
    """Adds the command to the sub-parsers of `ipt`."""
    parser = commands.add_parser(
        "evaluate",
        allow_abbrev=False,
        help="score weights on benchmark sets",
        description=DESCRIPTION,
    )
    add_weights_flags(
        parser,
        help="what is scored: weights as for `ipt restore`, bicubic or input for a baseline, or "
        "outputs:DIR for results of another program (default: the shipped weights)",
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="a folder of sets, one set, or a folder of images",
    )
    parser.add_argument(
        "--sets", default="", metavar="A,B", help="names of sets in DIR (default: all sets)"
    )
    add_task_flag(
        parser,
        "tasks (default: all tasks of the weights); TASK@SIGMA scores a denoising task at another "
        "sigma",
    )
    add_tiling_flags(parser)
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the noise and of synthetic rain (default: 0)"
    )
    parser.add_argument(
        "--noise-clip",
        default="on",
        choices=("on", "off"),
        help="whether noisy inputs are clipped to 0..255 (default: on)",
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=0,
        metavar="N",
        help="score only the first N images of each set (default: 0, all images)",
    )
    parser.add_argument("--json", metavar="FILE", help="write all scores to this file")
    parser.add_argument(
        "--report", metavar="FILE.html", help="write a page with scores and images to this file"
    )
    parser.add_argument(
        "--save-inputs",
        metavar="DIR",
        help="write the degraded inputs to this new folder, DIR/SET/TASK/IMAGE.png, so that other "
        "programs restore the same noise; noise that is no whole number is in IMAGE.npy as well",
    )
    parser.add_argument(
        "--niqe",
        metavar="PARAMS.npz",
        help="also score NIQE, with the parameters of this file, such as BasicSR's "
        "niqe_pris_params.npz",
    )
    add_shard_flag(
        parser,
        "score every N-th image of each set, beginning with the I-th, and write a part to --json; "
        "with --report, the part has the images of the page",
    )
    parser.add_argument(
        "--merge",
        nargs="+",
        metavar="PART.json",
        help="join the parts of all shards into the results of one run: the table, --json and "
        "--report",
    )
    parser.set_defaults(run=evaluate)


def evaluate(options: argparse.Namespace) -> int:
    """Runs `ipt evaluate`; returns 0.

    Raises:
      WeightsError, DataError, UsageError: wrong input; nothing was written.
    """
    from ipt_jax.evaluate.benchmark import BenchmarkSettings, merge_parts, run_benchmark
    from ipt_jax.evaluate.sets import find_sets

    if options.merge:
        if options.data or options.shard or options.weights:
            raise UsageError("--merge takes all from its parts; it goes with --json and --report")
        merge_parts(options.merge, options.json, options.report)
        return 0
    if not options.data:
        raise UsageError("name the images with --data DIR, or the parts with --merge")
    sets = find_sets(options.data, words_of(options.sets))
    settings = BenchmarkSettings(
        tasks=words_of(options.task),
        seed=options.seed,
        clip_noise=options.noise_clip == "on",
        limit=options.limit,
        json=options.json,
        report=options.report,
        save_inputs=options.save_inputs,
        shard=shard_of(options),
        niqe=options.niqe,
    )
    run_benchmark(_open_candidate(options), sets, settings)
    return 0


def _open_candidate(options: argparse.Namespace) -> Candidate:
    """Returns the candidate that --weights names."""
    from ipt_jax.evaluate import candidates
    from ipt_jax.weights.default import default_weights
    from ipt_jax.weights.load import is_fetched, shown_address

    if not options.weights:
        heads = [word.split("@")[0] for word in words_of(options.task)]
        options.weights = default_weights(heads)
    if options.weights in candidates.BASELINES:
        return candidates.Baseline(options.weights)
    if options.weights.startswith(candidates.OUTPUTS):
        return candidates.Outputs(options.weights)
    tiling = tiling_of(options)
    model = load_weights(options, dtype=options.dtype)
    # The query of an address, which may give access to the file, is not for the report.
    name = shown_address(options.weights) if is_fetched(options.weights) else options.weights
    return candidates.Weights(name, model, tiling, options.batch)
