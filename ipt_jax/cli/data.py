"""`ipt data prepare`: ImageNet's archives to a TFDS set, or a folder of pictures to a packed
set.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any


def add_parser(commands: Any) -> None:
    """`ipt data prepare imagenet2012|folder`."""
    command = commands.add_parser(
        "prepare",
        allow_abbrev=False,
        help="make a set that trains fast",
        description="Makes a set of few large files with random access out of archives or of a "
        "folder.",
    )
    kinds = command.add_subparsers(dest="kind", required=True, metavar="KIND")

    imagenet = kinds.add_parser(
        "imagenet2012",
        allow_abbrev=False,
        help="ImageNet's two archives to a TFDS array_record set",
        description="Builds TFDS's imagenet2012 in array_record format from "
        "ILSVRC2012_img_train.tar and "
        'ILSVRC2012_img_val.tar. Needs TensorFlow: pip install "ipt_jax[prepare]"; reading the set '
        "does not.",
    )
    imagenet.add_argument("--manual-dir", required=True, metavar="DIR", help="holds the archives")
    imagenet.add_argument(
        "--data-dir", required=True, metavar="DIR", help="where to put the set; local or gs://"
    )
    imagenet.add_argument(
        "--split",
        choices=("train", "validation", "all"),
        default="all",
        help="only that one (default: all, which needs both archives)",
    )
    imagenet.set_defaults(run=_imagenet)

    folder = kinds.add_parser(
        "folder",
        allow_abbrev=False,
        help="any tree of pictures to a packed set",
        description="Packs all pictures below a folder, byte for byte, into array_record files and "
        "a JSON with their "
        "names and checksums. Exit code 1 if pictures cannot be read: they are named and left out.",
    )
    folder.add_argument("source", metavar="SRC", help="the folder of pictures")
    folder.add_argument("--out", metavar="DIR", help="the folder to make (default: SRC.packed)")
    folder.add_argument(
        "--shard-mb", type=float, default=256, metavar="MB", help="size of a file (default: 256)"
    )
    folder.add_argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="that read and decode (default: all cores)",
    )
    folder.set_defaults(run=_folder)


def _folder(options: argparse.Namespace) -> int:
    from ipt_jax.data.prepare import pack

    target = options.out or options.source.rstrip("/") + ".packed"
    outcome = pack.pack(options.source, target, int(options.shard_mb * 2**20), options.threads)
    print("\n".join(pack.report(outcome, target)))
    return 1 if outcome.unreadable else 0


def _imagenet(options: argparse.Namespace) -> int:
    from ipt_jax.data.prepare import imagenet

    splits = tuple(imagenet.ARCHIVES) if options.split == "all" else (options.split,)
    report = imagenet.prepare(options.manual_dir, options.data_dir, splits)
    for line in report.lines:
        print(line)
    sys.stdout.flush()
    return 1 if report.unreadable else 0
