"""`ipt import` and `ipt export`: weights from and to other forms."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ipt_jax.cli.flags import add_weights_flags, load_weights

FORMATS = ("torch", "safetensors", "npz", "folder", "stablehlo", "onnx")


def add_parser(commands: Any) -> None:
    """Adds both commands to the sub-parsers of `ipt`."""
    reader = commands.add_parser(
        "import",
        allow_abbrev=False,
        help="the authors' .pt, .safetensors or .ckpt -> a weights folder",
        description="Turns a file of the authors' weights into a weights folder. Size, patch, "
        "layers, scales and tasks are "
        "found from names and shapes; what differs from the architecture is listed, and nothing is "
        "written.",
    )
    reader.add_argument("file", metavar="FILE", help="IPT_pretrain.pt, IPT_sr2.safetensors, ...")
    reader.add_argument("--out", required=True, metavar="DIR", help="the weights folder to write")
    reader.add_argument(
        "--task",
        metavar="T",
        help="tasks of the file in its order, where shapes do not tell: denoise30",
    )
    reader.add_argument(
        "--heads",
        type=int,
        metavar="N",
        help="attention heads, which shapes do not tell; 12 if not given",
    )
    reader.set_defaults(run=run_import)

    writer = commands.add_parser(
        "export",
        allow_abbrev=False,
        help="weights -> a file for the authors' code, or our own forms",
        description="Writes weights to a file. torch and safetensors have the authors' names and "
        "layout and load into "
        "their code with strict=True; npz and folder (model.json + weights.safetensors) have ours. "
        "stablehlo and onnx are "
        "programs for one task with the weights inside, for any number of tiles. Each is run on "
        "random patches and compared "
        "with the model before it gets its name; a model card goes beside it, FILE.card.json and "
        "FILE.card.md.",
    )
    add_weights_flags(writer, required=True)
    writer.add_argument("--format", required=True, choices=FORMATS, help="what to write")
    writer.add_argument("--out", required=True, metavar="FILE", help="where")
    writer.add_argument(
        "--task", metavar="T", help="only these tasks; one gives the authors' single-task form"
    )
    writer.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "float16"),
        help="what an ONNX file computes in, or a folder's tensors are kept as",
    )
    writer.add_argument(
        "--licence",
        metavar="TEXT",
        help="of the training data, for the card, where its name does not tell",
    )
    writer.add_argument(
        "--scores", metavar="FILE", help="scores for the card, from ipt evaluate --json"
    )
    writer.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    writer.set_defaults(run=run_export)


def run_import(options: argparse.Namespace) -> int:
    """Runs `ipt import`. Raises WeightsError; nothing is written then."""
    from ipt_jax.weights import folder as weights_folder
    from ipt_jax.weights.load import read_file

    restorer = read_file(Path(options.file).expanduser(), task=options.task, heads=options.heads)
    out = Path(options.out).expanduser()
    weights_folder.write(restorer, out)
    print(f"{out}: {_summary(restorer)}")
    return 0


def run_export(options: argparse.Namespace) -> int:
    """Runs `ipt export`. Raises WeightsError or ExportError; nothing is written then."""
    import dataclasses

    from ipt_jax.errors import WeightsError
    from ipt_jax.export import model_card as card
    from ipt_jax.export.export import export

    out = Path(options.out).expanduser()
    if not out.parent.is_dir():
        raise WeightsError(f"--out {out}: there is no folder {out.parent}")
    if out.is_dir() and options.format != "folder":
        raise WeightsError(f"--out {out} is a folder; name a file")
    if out.exists() and not options.overwrite:
        raise WeightsError(f"--out {out} exists; --overwrite replaces it")
    restorer = load_weights(options)
    if options.task:
        names = [word.strip() for word in options.task.split(",")]
        try:
            restorer = restorer.only(names)
        except ValueError as error:
            raise WeightsError(f"--task {options.task}: {error}") from None
    try:
        known = card.details(options.weights, restorer, options.licence, options.scores)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"--scores {options.scores}: not what ipt evaluate --json writes ({error!r})"
        ) from None
    restorer = dataclasses.replace(restorer, provenance=card.kept(restorer, known))
    difference = export(restorer, out, options.format, dtype=options.dtype, details=known)
    print(f"{out}: {_summary(restorer)}")
    print(
        f"largest difference from the model on random patches: {difference:.1e} of the largest "
        "value"
    )
    return 0


def _summary(restorer: Any) -> str:
    import jax

    count = sum(x.size for x in jax.tree.leaves(restorer.params))
    model = restorer.model
    return (
        f"{count:,} parameters; {model.features} features, patches of {model.patch}, width "
        f"{model.width}, {model.heads} "
        f"heads, {model.encoder_layers} + {model.decoder_layers} layers; tasks "
        f"{', '.join(restorer.tasks)}"
    )
