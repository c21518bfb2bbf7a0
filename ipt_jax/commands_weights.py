"""`ipt import` and `ipt export`: weights from and to other forms."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

FORMATS = ("torch", "safetensors", "npz", "folder")


def add_parser(commands: Any) -> None:
    """Adds both commands to the sub-parsers of `ipt`."""
    reader = commands.add_parser(
        "import", allow_abbrev=False, help="the authors' .pt, .safetensors or .ckpt -> a weights folder",
        description="Turns a file of the authors' weights into a weights folder. Size, patch, layers, scales and tasks are "
        "found from names and shapes; what differs from the architecture is listed, and nothing is written.",
    )  # fmt: skip
    reader.add_argument("file", metavar="FILE", help="IPT_pretrain.pt, IPT_sr2.safetensors, ...")
    reader.add_argument("--out", required=True, metavar="DIR", help="the weights folder to write")
    reader.add_argument("--task", metavar="T", help="tasks of the file in its order, where shapes do not tell: denoise30")
    reader.add_argument("--heads", type=int, metavar="N", help="attention heads, which shapes do not tell; 12 if not given")
    reader.set_defaults(run=run_import)

    writer = commands.add_parser(
        "export", allow_abbrev=False, help="weights -> a file for the authors' code, or our own forms",
        description="Writes weights to a file. torch and safetensors have the authors' names and layout and load into "
        "their code with strict=True; npz and folder (model.json + weights.safetensors) have ours.",
    )  # fmt: skip
    writer.add_argument("--weights", required=True, metavar="WEIGHTS", help="a run's folder (DIR@STEP), weights folder or file")
    writer.add_argument("--format", required=True, choices=FORMATS, help="what to write")
    writer.add_argument("--out", required=True, metavar="FILE", help="where")
    writer.add_argument("--task", metavar="T", help="only these tasks; one gives the authors' single-task form")
    writer.add_argument("--heads", type=int, metavar="N", help="attention heads of an authors' file; 12 if not given")
    writer.add_argument("--raw", action="store_true", help="a run's weights themselves, not their moving average")
    writer.set_defaults(run=run_export)


def run_import(options: argparse.Namespace) -> int:
    """Runs `ipt import`. Raises WeightsError; nothing is written then."""
    from ipt_jax import authors, weights_folder

    restorer = authors.read(Path(options.file).expanduser(), task=options.task, heads=options.heads)
    out = Path(options.out).expanduser()
    weights_folder.write(restorer, out)
    print(f"{out}: {_summary(restorer)}")
    return 0


def run_export(options: argparse.Namespace) -> int:
    """Runs `ipt export`. Raises WeightsError; nothing is written then."""
    from ipt_jax import authors, load, weights_folder
    from ipt_jax.weights import WeightsError

    out = Path(options.out).expanduser()
    if not out.parent.is_dir():
        raise WeightsError(f"--out {out}: there is no folder {out.parent}")
    if out.is_dir() and options.format != "folder":
        raise WeightsError(f"--out {out} is a folder; name a file")
    restorer = load(options.weights, heads=options.heads, raw=options.raw)
    if options.task:
        names = [word.strip() for word in options.task.split(",")]
        try:
            restorer = restorer.only(names)
        except ValueError as error:
            raise WeightsError(f"--task {options.task}: {error}") from None
    if options.format == "folder":
        weights_folder.write(restorer, out)
    elif options.format == "npz":
        weights_folder.write_npz(restorer, out)
    else:
        authors.write(restorer, out, options.format)
    print(f"{out}: {_summary(restorer)}")
    return 0


def _summary(restorer: Any) -> str:
    import jax

    count = sum(x.size for x in jax.tree.leaves(restorer.params))
    model = restorer.model
    return (f"{count:,} parameters; {model.features} features, patches of {model.patch}, width {model.width}, {model.heads} "
            f"heads, {model.encoder_layers} + {model.decoder_layers} layers; tasks {', '.join(restorer.tasks)}")  # fmt: skip
