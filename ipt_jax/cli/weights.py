"""`ipt weights`, `ipt import` and `ipt export`: weights by name, from and to other formats."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipt_jax.cli.flags import (
    add_out_flag,
    add_task_flag,
    add_weights_flags,
    load_weights,
    words_of,
)
from ipt_jax.errors import WeightsError
from ipt_jax.export.formats import FORMATS, LAYOUTS
from ipt_jax.messages import printable, say

if TYPE_CHECKING:
    from ipt_jax.export.model_card import Details
    from ipt_jax.restore.restorer import Restorer

LIST = (
    "Lists the weights that the package contains, those in the user's cache, and those that were "
    "downloaded from a hub or the web, with their tasks, the licence of their training data, and "
    "their scores. --weights takes their names and addresses."
)
IMPORT = (
    "Turns a file of the authors' weights into a weights folder. The geometry and the tasks are "
    "found from names and shapes. If the file holds another architecture, all differences are "
    "listed and nothing is written."
)
EXPORT = (
    "Writes weights to a file. torch and safetensors have the authors' names and layout and load "
    "into their code with strict=True; npz and folder (model.json + weights.safetensors) have this "
    "project's. stablehlo and onnx are programs for one task that include the weights and take any "
    "number of tiles. Each result is run on random patches and compared with the model before it "
    "gets its name. A model card is written beside it, FILE.card.json and FILE.card.md."
)


def add_parser(commands: Any) -> None:
    """Adds the commands to the sub-parsers of `ipt`."""
    _add_list(commands)
    _add_import(commands)
    _add_export(commands)


def _add_list(commands: Any) -> None:
    parser = commands.add_parser(
        "weights",
        allow_abbrev=False,
        help="list the weights that have a name",
        description=LIST,
    )
    parser.set_defaults(run=list_weights)


def list_weights(options: argparse.Namespace) -> int:
    """Runs `ipt weights`; returns 0."""
    from ipt_jax.weights import hub, web
    from ipt_jax.weights.default import SHIPPED, cache, shipped

    found = shipped()
    for name, folder in found.items():
        _tell_weights(name, "shipped" if folder.is_relative_to(SHIPPED) else "cached", folder)
    if not found:
        say("no weights have a name")
    for address, path in hub.cached():
        _tell_weights(address, "from a hub", path)
    for address, path in web.cached():
        _tell_weights(address, "downloaded", path)
    say(f"weights folders in {cache()} get a name, too: that of the folder")
    return 0


def _tell_weights(name: str, kind: str, path: Path) -> None:
    """Prints size, place, tasks, licence and scores of a weights folder, or of a file."""
    files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files)
    say(f"{printable(name)} ({kind}, {size / 1e6:.1f} MB, {path})")
    if not path.is_dir():
        from ipt_jax.weights.tensor_files import stated_tasks

        say(f"  tasks: {printable(stated_tasks(path) or 'the file does not state them')}")
        say("  licence of the training data: the file does not state it")
        return
    try:
        described = json.loads((path / "model.json").read_text())
        tasks = [str(entry["name"]) for entry in described["tasks"]]
        known = dict(described.get("provenance") or {})
        licence = str(known.get("licence", "not stated"))
        scores = {
            str(key).removesuffix("/psnr_y"): float(value)
            for key, value in dict(known.get("scores") or {}).items()
            if key.endswith("/psnr_y") and "/input" not in key
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        say(f"  its model.json cannot be read: {error}")
        return
    say(f"  tasks: {printable(', '.join(tasks))}")
    say(f"  licence of the training data: {printable(licence)}")
    if scores:
        texts = [f"{printable(key)} {value:.2f}" for key, value in scores.items()]
        say("  PSNR-Y: " + ", ".join(texts))


def _add_import(commands: Any) -> None:
    parser = commands.add_parser(
        "import",
        allow_abbrev=False,
        help="the authors' .pt, .safetensors or .ckpt -> a weights folder",
        description=IMPORT,
    )
    parser.add_argument("file", metavar="FILE", help="IPT_pretrain.pt, IPT_sr2.safetensors, ...")
    add_out_flag(parser, "DIR", "the weights folder to write", required=True)
    add_task_flag(
        parser, "tasks of the file, in its order, where shapes do not tell them: denoise30"
    )
    parser.add_argument(
        "--heads",
        type=int,
        metavar="N",
        help="number of attention heads, which shapes do not tell (default: 12)",
    )
    parser.set_defaults(run=import_weights)


def _add_export(commands: Any) -> None:
    parser = commands.add_parser(
        "export",
        allow_abbrev=False,
        help="weights -> a file for the authors' code or for other software",
        description=EXPORT,
    )
    add_weights_flags(parser)
    parser.add_argument("--format", required=True, choices=FORMATS, help="the format to write")
    add_out_flag(parser, "FILE", "the file to write, or the folder for folder", required=True)
    add_task_flag(parser, "write only these tasks; one task gives the authors' single-task form")
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "float16"),
        help="dtype in which an ONNX file computes, or of the tensors in a folder (default: "
        "float32)",
    )
    parser.add_argument(
        "--layout",
        default=LAYOUTS[0],
        choices=LAYOUTS,
        help="what an ONNX file takes: nhwc for tiles [batch, 48, 48, 3] in 0..255, nchw for "
        "images of any size [batch, 3, H, W] in 0..1, as other programs feed them (default: nhwc)",
    )
    add_card_flags(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.set_defaults(run=export_weights)


def add_card_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --licence and --scores, which the model card states."""
    parser.add_argument(
        "--licence",
        metavar="TEXT",
        help="licence of the training data, for the card, where the name of the data does not tell",
    )
    parser.add_argument(
        "--scores", metavar="FILE", help="scores for the card, from ipt evaluate --json"
    )


def import_weights(options: argparse.Namespace) -> int:
    """Runs `ipt import`; returns 0.

    Raises:
      WeightsError: the file is not valid; nothing was written.
    """
    from ipt_jax.weights.folder import write_weights_folder
    from ipt_jax.weights.load import read_file

    restorer = read_file(
        Path(options.file).expanduser(), task=options.task or None, heads=options.heads
    )
    out = Path(options.out).expanduser()
    write_weights_folder(restorer, out)
    say(f"{out}: {_summary(restorer)}")
    return 0


def export_weights(options: argparse.Namespace) -> int:
    """Runs `ipt export`; returns 0.

    Raises:
      WeightsError: wrong usage, or the weights are not valid; nothing was written.
      ExportError: the result does not compute what the model computes; nothing was written.
    """
    from ipt_jax.export import export

    out = Path(options.out).expanduser()
    if not out.parent.is_dir():
        raise WeightsError(f"--out {out}: there is no folder {out.parent}")
    if out.is_dir() and options.format != "folder":
        raise WeightsError(f"--out {out} is a folder; name a file")
    if out.exists() and not options.overwrite:
        raise WeightsError(f"--out {out} exists; --overwrite replaces it")
    restorer = only_tasks(load_weights(options), options.task)
    restorer, details = described(options, restorer)
    difference = export.export_weights(
        restorer,
        out,
        options.format,
        dtype=options.dtype,
        layout=options.layout,
        details=details,
    )
    say(f"{out}: {_summary(restorer)}")
    say(
        f"largest difference from the model on random patches: {difference:.1e} of the largest "
        "value"
    )
    return 0


def only_tasks(restorer: Restorer, words: str) -> Restorer:
    """Returns weights with the tasks of --task; with all of them where it is not given.

    Raises:
      WeightsError: the weights do not have a task.
    """
    if not words:
        return restorer
    try:
        return restorer.only(words_of(words))
    except ValueError as error:
        raise WeightsError(f"--task {words}: {error}") from None


def described(options: argparse.Namespace, restorer: Restorer) -> tuple[Restorer, Details]:
    """Returns weights with the provenance of an export, and the details for their card.

    Raises:
      WeightsError: the file of --scores is missing or not valid.
    """
    import dataclasses

    from ipt_jax.export import model_card
    from ipt_jax.weights.default import default_weights

    try:
        details = model_card.collect_details(
            options.weights or default_weights(), restorer, options.licence, options.scores
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"--scores {options.scores}: it is not a file of ipt evaluate --json ({error!r})"
        ) from None
    provenance = model_card.exported_provenance(restorer, details)
    return dataclasses.replace(restorer, provenance=provenance), details


def _summary(restorer: Restorer) -> str:
    """Returns one line with the geometry and the tasks of weights."""
    import jax

    count = sum(x.size for x in jax.tree.leaves(restorer.params))
    model = restorer.model
    return (
        f"{count:,} parameters; {model.features} features, patches of {model.patch}, width "
        f"{model.width}, {model.heads} heads, {model.encoder_layers} + {model.decoder_layers} "
        f"layers; tasks {', '.join(restorer.tasks)}"
    )
