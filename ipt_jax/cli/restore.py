"""`ipt restore`: restores pictures, folders of them, and videos."""

from __future__ import annotations

import argparse
from typing import Any

from ipt_jax.restore.tiling import PROTOCOLS

DESCRIPTION = """Restores pictures of any size. INPUT is a file (PNG, JPEG, WebP, TIFF, BMP, GIF's first frame; a video where
ffmpeg is installed), a folder (with its subfolders, whose structure is kept) or a quoted glob. Grey stays grey; alpha, 16 bits,
colour profile and EXIF are kept; a picture that EXIF turns is turned. Large pictures go through strip by strip. A file that
cannot be restored does not stop the others: it is listed at the end, and the exit code is 1."""
FORMATS = ("png", "jpeg", "webp", "tiff", "bmp")


def add_parser(commands: Any) -> None:
    """Adds the command to the sub-parsers of `ipt`."""
    parser = commands.add_parser(
        "restore", allow_abbrev=False, help="restore pictures", description=DESCRIPTION
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="files, folders, globs")
    parser.add_argument(
        "--task",
        metavar="T",
        help="sr2, denoise50, ...; several one after the other: denoise30,sr2",
    )
    parser.add_argument(
        "--weights",
        metavar="WEIGHTS",
        help="a run's folder, a weights folder, a file of the authors'",
    )
    parser.add_argument(
        "-o", "--out", metavar="FILE_OR_DIR", help="where results go (default: restored/)"
    )
    parser.add_argument(
        "--format", choices=FORMATS, help="of results; default: as -o FILE says, else png"
    )
    parser.add_argument(
        "--quality",
        type=int,
        metavar="N",
        help="1..100, for jpeg (default 95), webp (90; 100: lossless), video",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there")
    parser.add_argument(
        "--compare", action="store_true", help="also write a before/after sheet, compare.png"
    )
    parser.add_argument(
        "--protocol", default="blend", choices=PROTOCOLS, help="how pictures are cut into tiles"
    )
    parser.add_argument(
        "--overlap",
        type=int,
        default=12,
        metavar="N",
        help="pixels by which blend's tiles overlap at least",
    )
    parser.add_argument(
        "--ensemble",
        action="store_true",
        help="mean over 8 flips and transpositions; 8 times the work",
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
        "--max-megapixels",
        type=float,
        default=500,
        metavar="N",
        help="refuse larger inputs (default: 500)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit code.

    Raises:
      UserError: wrong usage or input; nothing was written.
    """
    from ipt_jax.restore import files as restore_files

    return restore_files.run(options)
