"""Flags that several commands share, and the settings that their values become."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ipt_jax.errors import UsageError
from ipt_jax.restore.tiling import OVERLAP, PROTOCOLS, Tiling
from ipt_jax.shards import Shard

if TYPE_CHECKING:
    from ipt_jax.restore.restorer import Restorer

WEIGHTS_HELP = (
    "a name that `ipt weights` lists, a run's folder (DIR@STEP), a weights folder, a file of the "
    "authors' weights, or an address: hf://ORG/NAME[@REVISION][/FILE], https://..., gs://... "
    "(default: $IPT_WEIGHTS, else the shipped weights)"
)
TILES_PER_CALL = 16
DTYPES = ("float32", "bfloat16")


def add_weights_flags(parser: argparse.ArgumentParser, *, help: str = WEIGHTS_HELP) -> None:
    """Adds --weights, --heads, --raw and --weights-tasks.

    Args:
      parser: the parser of a command.
      help: the help text of --weights.
    """
    parser.add_argument("--weights", metavar="WEIGHTS", help=help)
    parser.add_argument(
        "--heads",
        type=int,
        metavar="N",
        help="number of attention heads in a file of the authors' weights (default: 12)",
    )
    parser.add_argument(
        "--weights-tasks",
        metavar="A,B",
        help="tasks in a file of the authors' weights, where its shapes do not tell them",
    )
    parser.add_argument(
        "--raw", action="store_true", help="use a run's raw weights instead of their EMA"
    )


def load_weights(
    options: argparse.Namespace,
    *,
    dtype: str = "float32",
    default_for: Sequence[str] | None = None,
) -> Restorer:
    """Loads the weights that the flags of `add_weights_flags` name.

    Args:
      options: the parsed command line. Where --weights was not given, it gets the default weights.
      dtype: the dtype in which the network computes, "float32" or "bfloat16".
      default_for: where --weights is not given, the tasks that the default weights must have.

    Raises:
      WeightsError: the weights do not exist or are invalid, or there are no default weights.
      CheckpointError: every checkpoint of a run is damaged.
    """
    # Imported here because jax takes a second to import, and `ipt --help` must not wait for it.
    from ipt_jax.weights.default import default_weights
    from ipt_jax.weights.load import load

    options.weights = options.weights or default_weights(default_for or ())
    return load(
        options.weights,
        task=options.weights_tasks,
        heads=options.heads,
        raw=options.raw,
        dtype=dtype,
    )


def add_task_flag(parser: argparse.ArgumentParser, help: str) -> None:
    """Adds --task, which is the same as --tasks: a comma-separated list."""
    parser.add_argument("--task", "--tasks", dest="task", default="", metavar="A,B", help=help)


def add_out_flag(
    parser: argparse.ArgumentParser,
    metavar: str,
    help: str,
    *,
    required: bool = False,
    default: str | None = None,
) -> None:
    """Adds -o, which is the same as --out."""
    parser.add_argument(
        "-o", "--out", dest="out", required=required, default=default, metavar=metavar, help=help
    )


def add_shard_flag(parser: argparse.ArgumentParser, help: str) -> None:
    """Adds --shard."""
    parser.add_argument("--shard", metavar="I/N", help=help)


def shard_of(options: argparse.Namespace) -> Shard | None:
    """Returns --shard, or None without it. Raises UsageError as `Shard.parse` does."""
    return None if options.shard is None else Shard.parse(options.shard)


def words_of(text: str) -> list[str]:
    """Returns the words of a comma-separated list, without empty ones."""
    return [word.strip() for word in text.split(",") if word.strip()]


def add_tiling_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --protocol, --overlap, --ensemble, --batch and --dtype."""
    parser.add_argument(
        "--protocol",
        default=PROTOCOLS[0],
        choices=PROTOCOLS,
        help=f"how images are cut into tiles (default: {PROTOCOLS[0]})",
    )
    parser.add_argument(
        "--overlap",
        type=int,
        default=OVERLAP,
        metavar="N",
        help="minimum number of pixels that neighbouring tiles share, for --protocol blend "
        f"(default: {OVERLAP})",
    )
    parser.add_argument(
        "--ensemble",
        action="store_true",
        help="average over the 8 flips and transpositions, which takes 8 times as long",
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=TILES_PER_CALL,
        metavar="N",
        help=f"tiles per call and device (default: {TILES_PER_CALL})",
    )
    parser.add_argument(
        "--dtype",
        default=DTYPES[0],
        choices=DTYPES,
        help=f"dtype in which the network computes (default: {DTYPES[0]})",
    )


def tiling_of(options: argparse.Namespace) -> Tiling:
    """Returns --protocol, --overlap and --ensemble as settings, and checks --batch.

    Raises:
      UsageError: --batch is less than 1.
    """
    if options.batch < 1:
        raise UsageError(f"--batch {options.batch}: it must be 1 or more")
    return Tiling(protocol=options.protocol, overlap=options.overlap, ensemble=options.ensemble)
