"""`ipt restore`: restores images, folders of images, and videos."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ipt_jax.cli.flags import (
    add_out_flag,
    add_shard_flag,
    add_task_flag,
    add_tiling_flags,
    add_weights_flags,
    load_weights,
    shard_of,
    tiling_of,
    words_of,
)
from ipt_jax.errors import UserError
from ipt_jax.messages import listed, printable, say, say_error, without_controls

if TYPE_CHECKING:
    from ipt_jax.restore.files import Outcome
    from ipt_jax.restore.restorer import Restorer

DESCRIPTION = (
    "Restores images of any size. INPUT is a file (PNG, JPEG, WebP, TIFF, BMP, GIF, or a video if "
    "ffmpeg is installed), a folder (its subfolders are included and the "
    "results keep their structure) or a quoted glob. Grey images stay grey; alpha, 16 bits, the "
    "colour profile, EXIF, XMP, IPTC and the resolution are kept, and the orientation in EXIF is "
    "applied. Large images are restored strip by strip. INPUT - is standard input. A file that "
    "cannot be restored does not stop the others: it is listed at the end, and the exit code is 1. "
    "Each result records its source and tasks: results that are there are not made again, and "
    "another file with the name of a result is not replaced."
)
FORMATS = ("png", "jpeg", "webp", "tiff", "bmp")


def add_parser(commands: Any) -> None:
    """Adds the command to the sub-parsers of `ipt`."""
    parser = commands.add_parser(
        "restore", allow_abbrev=False, help="restore images", description=DESCRIPTION
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="files, folders or globs, or -")
    add_task_flag(
        parser, "sr2, denoise, ...; several tasks are applied one after the other: denoise,sr2"
    )
    add_weights_flags(parser)
    add_out_flag(
        parser,
        "FILE_OR_DIR",
        "where results are written; - is standard output (default: restored/, and standard output "
        "for standard input)",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="format of the results (default: the suffix of -o FILE, else png)",
    )
    parser.add_argument(
        "--quality",
        type=int,
        metavar="N",
        help="1..100, for jpeg (default: 95), webp (default: 90; 100 is lossless) and video",
    )
    parser.add_argument(
        "--background",
        metavar="COLOUR",
        help="white, '#ff8800', ...: blends transparency with this colour in formats without "
        "alpha (jpeg, bmp), which otherwise leave alpha out",
    )
    add_shard_flag(
        parser,
        "restore the I-th of N parts of the files, for arrays of jobs: I counts from 1 to N, or "
        "from 0 to N-1; docs/scale.md has examples",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")
    parser.add_argument(
        "--compare",
        action="store_true",
        help="also write a sheet with crops before and after, compare.png",
    )
    add_tiling_flags(parser)
    parser.add_argument(
        "--max-megapixels",
        type=float,
        default=500,
        metavar="N",
        help="refuse larger inputs (default: 500)",
    )
    parser.set_defaults(run=restore)


def restore(options: argparse.Namespace) -> int:
    """Runs `ipt restore`.

    Returns:
      0 if every result is there, made from its source by these tasks; 1 if a file failed, or if
      another file has the place of a result.

    Raises:
      UserError: wrong usage or input; nothing was written.
    """
    from ipt_jax.restore.files import FileSettings, restore_files
    from ipt_jax.restore.pipes import writes_to_pipe
    from ipt_jax.tasks import TASKS, in_words
    from ipt_jax.weights.default import default_weights, tasks_of

    if options.quality is not None and not 1 <= options.quality <= 100:
        raise UserError(f"--quality {options.quality}: it must be in 1..100")
    tiling = tiling_of(options)
    if not options.max_megapixels > 0:
        raise UserError(f"--max-megapixels {options.max_megapixels:g}: it must be above 0")
    piped = writes_to_pipe(options.inputs, options.out)
    if piped and options.compare:
        raise UserError("--compare needs a place for its sheet; name a file or folder with -o")
    tasks = words_of(options.task)

    def load() -> Restorer:
        if not options.weights and not tasks:
            known = tasks_of(pathlib.Path(default_weights()) / "model.json") or TASKS
            raise UserError(
                f"name a task, for example --task {next(iter(known))}:\n{in_words(known)}\nSeveral "
                "tasks are applied one after the other: --task denoise,sr2"
            )
        return load_weights(options, dtype=options.dtype, default_for=tasks)

    settings = FileSettings(
        tasks=tasks,
        out=options.out,
        format=options.format,
        quality=options.quality,
        background=_colour(options.background),
        overwrite=options.overwrite,
        compare=options.compare,
        tiling=tiling,
        batch=options.batch,
        max_megapixels=options.max_megapixels,
        shard=shard_of(options),
    )
    outcome = restore_files(options.inputs, load, settings)
    # Standard output may be where the image goes.
    _report(outcome, piped, say_error if piped else say)
    return 1 if outcome.failed or outcome.blocked else 0


def _report(outcome: Outcome, piped: bool, tell: Callable[[str], None]) -> None:
    """Prints what was done, by `tell`."""
    where = f" into {printable(outcome.place)}" if outcome.results and not piped else ""
    tell(f"{len(outcome.results)} restored{where}")
    if outcome.elsewhere:
        tell(f"{outcome.elsewhere} left for other shards")
    if outcome.done:
        tell(
            f"{len(outcome.done)} left alone because their results are there, made from the same "
            "source by the same tasks; --overwrite makes them again"
        )
    if outcome.left_out:
        tell(
            f"{len(outcome.left_out)} results of earlier runs are not restored again: "
            f"{listed(map(str, outcome.left_out))}"
        )
    if outcome.blocked:
        names = listed(f"{path} ({why})" for path, why in outcome.blocked)
        tell(
            f"{len(outcome.blocked)} skipped because files exist that would be replaced; "
            f"--overwrite replaces them: {names}"
        )
    if outcome.failed:
        say_error(f"{len(outcome.failed)} could not be restored:")
        for name, reason in outcome.failed:
            say_error(f"  {printable(name)}: {without_controls(reason)}")
    if outcome.failures is not None:
        say_error(f"what is not restored is listed in {printable(outcome.failures)}")


def _colour(text: str | None) -> tuple[int, int, int] | None:
    """Returns the RGB of a colour's name or code; raises UserError if there is no such colour."""
    if text is None:
        return None
    from PIL import ImageColor

    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError:
        raise UserError(
            f"--background {text}: not a colour; write white, '#ff8800', 'rgb(255, 136, 0)', ..."
        ) from None
