"""`ipt restore`: restores images, folders of images, and videos."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from ipt_jax.cli.flags import add_tiling_flags, add_weights_flags, load_weights, tiling_of
from ipt_jax.errors import UserError
from ipt_jax.messages import listed

if TYPE_CHECKING:
    from ipt_jax.restore.restorer import Restorer

DESCRIPTION = (
    "Restores images of any size. INPUT is a file (PNG, JPEG, WebP, TIFF, BMP, GIF, or a video if "
    "ffmpeg is installed), a folder (its subfolders are included and the "
    "results keep their structure) or a quoted glob. Grey images stay grey; alpha, 16 bits, the "
    "colour profile and EXIF are kept, and the orientation in EXIF is applied. Large images are "
    "restored strip by strip. A file that cannot be restored does not stop the others: it is "
    "listed at the end, and the exit code is 1."
)
FORMATS = ("png", "jpeg", "webp", "tiff", "bmp")


def add_parser(commands: Any) -> None:
    """Adds the command to the sub-parsers of `ipt`."""
    parser = commands.add_parser(
        "restore", allow_abbrev=False, help="restore images", description=DESCRIPTION
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="files, folders or globs")
    parser.add_argument(
        "--task",
        metavar="T",
        help="sr2, denoise50, ...; several tasks are applied one after the other: denoise30,sr2",
    )
    add_weights_flags(parser)
    parser.add_argument(
        "-o",
        "--out",
        metavar="FILE_OR_DIR",
        help="where results are written (default: restored/)",
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
    """Runs `ipt restore`; returns 0, or 1 if a file failed or a result existed already.

    Raises:
      UserError: wrong usage or input; nothing was written.
    """
    from ipt_jax.restore.files import FileSettings, restore_files

    if options.quality is not None and not 1 <= options.quality <= 100:
        raise UserError(f"--quality {options.quality}: it must be in 1..100")
    tiling = tiling_of(options)
    if not options.max_megapixels > 0:
        raise UserError(f"--max-megapixels {options.max_megapixels:g}: it must be above 0")
    tasks = [word.strip() for word in options.task.split(",")] if options.task else []

    def load() -> Restorer:
        if not options.weights and not tasks:
            raise UserError(
                "name a task: --task sr2, --task denoise50, ... (or name weights for one task with "
                "--weights)"
            )
        return load_weights(options, dtype=options.dtype, default_for=tasks)

    settings = FileSettings(
        tasks=tasks,
        out=options.out,
        format=options.format,
        quality=options.quality,
        overwrite=options.overwrite,
        compare=options.compare,
        tiling=tiling,
        batch=options.batch,
        max_megapixels=options.max_megapixels,
    )
    outcome = restore_files(options.inputs, load, settings)
    print(f"{outcome.restored} restored" + (f" into {outcome.place}" if outcome.restored else ""))
    if outcome.existing:
        print(
            f"{len(outcome.existing)} skipped because their results exist; --overwrite replaces "
            f"them: {listed(str(job.out) for job in outcome.existing)}"
        )
    if outcome.failed:
        print(f"{len(outcome.failed)} could not be restored:", file=sys.stderr)
        for path, reason in outcome.failed:
            print(f"  {path}: {reason}", file=sys.stderr)
    return 1 if outcome.failed or outcome.existing else 0
