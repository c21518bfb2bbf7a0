"""`ipt data prepare`, `ipt data check` and `ipt data preview`."""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

from ipt_jax.cli.flags import add_out_flag
from ipt_jax.messages import say
from ipt_jax.versions import install

# Side in pixels of the largest crop: four times the paper's tile of 48.
CROP = 192
# Pairs of each task on a preview.
PAIRS = 4


def add_parser(commands: Any) -> None:
    """Adds the commands of `ipt data`."""
    _add_prepare(commands)
    _add_check(commands)
    _add_preview(commands)


def _add_prepare(commands: Any) -> None:
    command = commands.add_parser(
        "prepare",
        allow_abbrev=False,
        help="make a data set that can be read fast",
        description="Makes a data set of few large files with random access, from ImageNet's "
        "archives or from a folder of images.",
    )
    kinds = command.add_subparsers(dest="kind", required=True, metavar="KIND")
    command.commands = kinds.choices

    imagenet = kinds.add_parser(
        "imagenet2012",
        allow_abbrev=False,
        help="convert ImageNet's two archives to a TFDS array_record set",
        description="Builds TFDS's imagenet2012 in array_record format from "
        "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar. Building needs TensorFlow: "
        f"{install('prepare')}. Reading the set does not.",
    )
    imagenet.add_argument(
        "--manual-dir", required=True, metavar="DIR", help="the folder that holds the archives"
    )
    imagenet.add_argument(
        "--data-dir", required=True, metavar="DIR", help="where to put the set; local or gs://"
    )
    imagenet.add_argument(
        "--split",
        choices=("train", "validation", "all"),
        default="all",
        help="build only that split (default: all, which needs both archives)",
    )
    imagenet.set_defaults(run=prepare_imagenet)

    folder = kinds.add_parser(
        "folder",
        allow_abbrev=False,
        help="pack any tree of images",
        description="Packs all images below a folder, byte for byte, into array_record files and a "
        "JSON file with their names and checksums. Images that cannot be read are named and left "
        "out, and the exit code is then 1.",
    )
    folder.add_argument("source", metavar="SRC", help="the folder of images")
    add_out_flag(folder, "DIR", "the folder to make (default: SRC.packed)")
    folder.add_argument(
        "--shard-mb",
        type=float,
        default=256,
        metavar="MB",
        help="size of each file (default: 256)",
    )
    _add_threads(folder)
    folder.set_defaults(run=prepare_folder)


def _add_check(commands: Any) -> None:
    command = commands.add_parser(
        "check",
        allow_abbrev=False,
        help="read an entire data set and report what it holds and what cannot be read",
        description="Reads and decodes every image of a data set, and matches the pairs of a "
        "folder of pairs. The exit code is 1 if an image cannot be read or has no partner.",
    )
    command.add_argument(
        "set", metavar="SET", help="a folder of images, a packed set, or the name of a TFDS set"
    )
    command.add_argument(
        "--data-dir", metavar="DIR", help="the folder that holds the TFDS set; local or gs://"
    )
    command.add_argument("--split", metavar="NAME", help="the split of a TFDS set (default: train)")
    command.add_argument(
        "--crop",
        type=int,
        default=CROP,
        metavar="PIXELS",
        help="count images with a side shorter than this "
        f"(default: {CROP}, the crop of the x4 task)",
    )
    command.add_argument(
        "--against",
        metavar="DIR",
        help="also look for copies of the images in the benchmarks in DIR: rescaled, recompressed, "
        "flipped or turned ones, not crops; the exit code is 1 if there is one",
    )
    command.add_argument(
        "--pairs", metavar="FILE", help="with --against: draw the most similar pairs on this image"
    )
    _add_threads(command)
    command.add_argument("--json", metavar="FILE", help="also write the report to this file")
    command.set_defaults(run=check)


def _add_preview(commands: Any) -> None:
    command = commands.add_parser(
        "preview",
        allow_abbrev=False,
        help="show a batch of a config",
        description="Writes a batch as an image with one row per task: pairs of the network's "
        "input and its target.",
        epilog="Every key of the config can be set: --config.data.dir=photos",
    )
    command.add_argument(
        "--config", required=True, metavar="FILE", help="a config file, e.g. configs/demo.py"
    )
    add_out_flag(
        command, "FILE", "the image to write (default: preview.png)", default="preview.png"
    )
    command.add_argument(
        "--step", type=int, default=0, metavar="N", help="the step of the batch (default: 0)"
    )
    command.add_argument(
        "--pairs",
        type=int,
        default=PAIRS,
        metavar="N",
        help=f"show at most N pairs of each task (default: {PAIRS})",
    )
    command.set_defaults(run=preview)


def _add_threads(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="number of threads that read and decode (default: 0, one for each core)",
    )


def prepare_imagenet(options: argparse.Namespace) -> int:
    """Runs `ipt data prepare imagenet2012`."""
    from ipt_jax.data.prepare import imagenet

    splits = tuple(imagenet.ARCHIVES) if options.split == "all" else (options.split,)
    report = imagenet.prepare(options.manual_dir, options.data_dir, splits)
    say("\n".join(report.lines))
    return 1 if report.unreadable else 0


def prepare_folder(options: argparse.Namespace) -> int:
    """Runs `ipt data prepare folder`."""
    from ipt_jax.data.prepare import pack

    target = options.out or options.source.rstrip("/") + ".packed"
    outcome = pack.pack(options.source, target, int(options.shard_mb * 2**20), options.threads)
    say("\n".join(pack.report_lines(outcome, target)))
    return 1 if outcome.unreadable else 0


def check(options: argparse.Namespace) -> int:
    """Runs `ipt data check`."""
    from ipt_jax.data.prepare import inspect

    source = inspect.find_source(options.set, options.data_dir, options.split)
    pairs = inspect.check_pairs(options.set, options.data_dir)
    found = inspect.check_source(source, options.crop, options.threads, pairs)
    say("\n".join(inspect.report_lines(options.set, found)))
    copied = False
    if options.against:
        found["against"] = _find_copies(source, options)
        copied = bool(found["against"]["copies"])
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
    return 1 if found["unreadable"] or pairs.get("fault") or copied else 0


def _find_copies(source: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Looks for the images of a source in --against, says what was found, and draws --pairs."""
    from ipt_jax.data.prepare import copies, inspect
    from ipt_jax.images.sheet import encode_image

    benchmarks = inspect.find_source(options.against, None)
    pairs = copies.find_copies(source, benchmarks, options.threads)
    found = copies.copies_report(source, benchmarks, pairs)
    say("\n".join(copies.copies_lines(found)))
    if options.pairs:
        out = pathlib.Path(options.pairs)
        sheet = copies.copies_sheet(source, benchmarks, pairs)
        out.write_bytes(encode_image(sheet, out.suffix or ".png"))
    return found


def preview(options: argparse.Namespace) -> int:
    """Runs `ipt data preview`."""
    from ipt_jax.config import loading
    from ipt_jax.data import pipeline
    from ipt_jax.data.prepare.inspect import batch_sheet
    from ipt_jax.errors import DataError
    from ipt_jax.images.sheet import encode_image
    from ipt_jax.tasks import make_tasks
    from ipt_jax.train.data import open_data

    out = pathlib.Path(options.out)
    if not out.absolute().parent.is_dir():
        raise DataError(f"--out {out}: there is no folder {out.absolute().parent}")
    config, source = open_data(loading.load(options.config, getattr(options, "overrides", ())))
    batches = pipeline.make_batches(source, make_tasks(config.tasks), config)
    item = batches(options.step)
    for text in item.replaced:
        say(f"replaced an image that cannot be read: {text}")
    for text in item.damaged:
        say(f"an image is damaged, and is used as its decoder reads it: {text}")
    try:
        out.write_bytes(encode_image(batch_sheet(item.batch, options.pairs), out.suffix or ".png"))
    except ValueError as error:
        raise DataError(f"--out {out}: {error}") from error
    rows = len(next(iter(item.batch.values()))["lq"])
    say(
        f"{out}: step {options.step}, {', '.join(item.batch)}; {min(rows, options.pairs)} of "
        f"{rows} pairs of each"
    )
    return 0
