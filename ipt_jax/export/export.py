"""Exports weights: written, read back, compared with the model, and described by a card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ipt_jax.errors import ExportError, WeightsError
from ipt_jax.export import model_card
from ipt_jax.export.formats import DTYPES, LAYOUTS, SINGLE_TASK, WITH_LAYOUT
from ipt_jax.export.parity import (
    BOUNDS,
    Run,
    largest_difference,
    largest_difference_on_images,
)
from ipt_jax.restore.restorer import Restorer
from ipt_jax.weights import authors
from ipt_jax.weights import folder as weights_folder
from ipt_jax.weights.load import read_file


def export_weights(
    restorer: Restorer,
    out: Path,
    form: str,
    *,
    dtype: str = "float32",
    layout: str = "nhwc",
    details: model_card.Details | None = None,
) -> float:
    """Writes weights, and a card beside them, `<out>.card.json` and `<out>.card.md`.

    The result is read back and restores random patches at every task before it gets its name.

    Args:
      restorer: the weights; all of its tasks are written.
      out: the file, or the folder for "folder".
      form: one of `formats.FORMATS`.
      dtype: the dtype in which an ONNX file computes, or of the tensors in a folder, "float32" or
        "float16".
      layout: of an ONNX file, "nhwc" for one that takes tiles `[batch, tile, tile, 3]` in 0..255,
        "nchw" for one that takes images of any size `[batch, 3, H, W]` in 0..1.
      details: what the card states about the training.

    Returns:
      The largest difference from the model's outputs over their largest magnitude.

    Raises:
      WeightsError: wrong usage, or a package that the format needs is missing.
      ExportError: the difference is above `parity.BOUNDS`.
    """
    difference, card = write_weights(restorer, out, form, dtype, details, layout)
    if form == "stablehlo":
        from ipt_jax.export import stablehlo

        write_json(_beside(out, ".json"), stablehlo.describe_program(restorer))
    write_json(_beside(out, ".card.json"), card)
    _beside(out, ".card.md").write_text(model_card.card_as_markdown(card))
    return difference


def write_weights(
    restorer: Restorer,
    out: Path,
    form: str,
    dtype: str,
    details: model_card.Details | None,
    layout: str = LAYOUTS[0],
) -> tuple[float, dict[str, Any]]:
    """Writes and checks weights; returns the largest difference from the model, and the card.

    Arguments and errors are those of `export_weights`.
    """
    if form in SINGLE_TASK and len(restorer.tasks) > 1:
        raise WeightsError(
            f"--format {form} contains one task; name it: --task {next(iter(restorer.tasks))} (the "
            f"model has {', '.join(restorer.tasks)})"
        )
    dtypes = DTYPES.get(form, ("float32",))
    if dtype not in dtypes:
        raise WeightsError(f"--dtype {dtype}: --format {form} is written in {' or '.join(dtypes)}")
    if layout not in LAYOUTS or (layout != LAYOUTS[0] and form not in WITH_LAYOUT):
        raise WeightsError(f"--layout {layout}: --format {form} has no such layout")
    part = out if form == "folder" else out.with_name(f".{out.name}.part")
    try:
        run = _write(restorer, part, form, dtype, layout)
        compare = largest_difference if layout == "nhwc" else largest_difference_on_images
        difference = compare(restorer, run)
        if not difference <= BOUNDS[dtype]:
            raise ExportError(
                f"{out}: differs from the model by {difference:.1e} of the largest value; the "
                f"bound is {BOUNDS[dtype]:.0e}"
            )
        if part != out:
            part.replace(out)
    finally:
        if part != out:
            part.unlink(missing_ok=True)
    card = model_card.make_card(
        restorer, out, form, dtype, difference, details or model_card.Details()
    )
    return difference, card


def write_json(file: Path, content: Any) -> None:
    """Writes a value as indented JSON."""
    file.write_text(json.dumps(content, indent=1) + "\n")


def _beside(out: Path, suffix: str) -> Path:
    return out.with_name(out.name + suffix)


def _write(restorer: Restorer, part: Path, form: str, dtype: str, layout: str) -> Run:
    """Writes weights in a format; returns a function that runs what was written."""
    if form == "stablehlo":
        from ipt_jax.export import stablehlo

        return stablehlo.write_program(restorer, part)
    if form == "onnx":
        from ipt_jax.export import onnx_file

        return onnx_file.write_onnx(restorer, part, dtype, layout)
    if form == "npz":
        weights_folder.write_npz(restorer, part)
        return read_file(part).apply
    if form == "folder":
        weights_folder.write_weights_folder(restorer, part, dtype)
        return weights_folder.read_weights_folder(part).apply
    authors.write_authors_file(restorer, part, form)
    tasks = ",".join(restorer.tasks)
    return authors.read_authors_file(part, task=tasks, heads=restorer.model.heads).apply
