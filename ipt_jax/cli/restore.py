"""`ipt restore`: restores pictures, folders of them, and videos."""

from __future__ import annotations

import argparse
from typing import Any

from ipt_jax.cli.flags import add_tiling_flags, add_weights_flags

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
    add_weights_flags(parser)
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
    add_tiling_flags(parser)
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
