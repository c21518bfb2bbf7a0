"""Weights to files for others: written, read back and compared with the model, with a card that
says what they are.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ipt_jax.errors import ExportError, WeightsError
from ipt_jax.export import model_card as card
from ipt_jax.export import parity as check
from ipt_jax.restore.restorer import Restorer

FORMATS = ("torch", "safetensors", "npz", "folder", "stablehlo", "onnx")

# A program holds one task
SINGLE = ("stablehlo", "onnx")

# Others are as they were trained: float32
DTYPES = dict.fromkeys(("onnx", "folder"), ("float32", "float16"))

logger = logging.getLogger("ipt_jax")


def export(
    restorer: Restorer,
    out: Path,
    form: str,
    *,
    dtype: str = "float32",
    details: card.Details | None = None,
) -> float:
    """Writes weights, and a card beside them, `<out>.card.json` and `<out>.card.md`.

    What was written is run on random patches, every task of it, before it gets its name.

    Args:
      restorer: the model; only its tasks are written.
      out: the file, or the folder of "folder".
      form: one of `FORMATS`.
      dtype: what an ONNX file computes in and what a folder's tensors are kept as, "float32" or
        "float16".
      details: what the card is to say of the training.

    Returns:
      The largest difference from the model's outputs over their largest magnitude.

    Raises:
      WeightsError: wrong usage, or a package that the format needs is missing.
      ExportError: the difference is above `check.BOUNDS`.
    """
    if form in SINGLE and len(restorer.tasks) > 1:
        raise WeightsError(
            f"--format {form} holds one task; name it: --task {next(iter(restorer.tasks))} (the "
            "model has "
            f"{', '.join(restorer.tasks)})"
        )
    if dtype not in DTYPES.get(form, ("float32",)):
        raise WeightsError(
            f"--dtype {dtype}: --format {form} is written in "
            f"{' or '.join(DTYPES.get(form, ('float32',)))}"
        )
    part = out if form == "folder" else out.with_name(f".{out.name}.part")
    try:
        run = _writers()[form](restorer, part, dtype)
        difference = check.largest_difference(restorer, run)
        bound = check.BOUNDS[dtype]
        if not difference <= bound:
            raise ExportError(
                f"{out}: differs from the model by {difference:.1e} of the largest value; the "
                f"bound is {bound:.0e}"
            )
        if part != out:
            part.replace(out)
    finally:
        if part != out:
            part.unlink(missing_ok=True)
    if form == "stablehlo":
        from ipt_jax.export import stablehlo

        beside(out, ".json").write_text(json.dumps(stablehlo.describe(restorer), indent=1) + "\n")
    said = card.make(restorer, out, form, dtype, difference, details or card.Details())
    beside(out, ".card.json").write_text(json.dumps(said, indent=1) + "\n")
    beside(out, ".card.md").write_text(card.markdown(said))
    return difference


def beside(out: Path, suffix: str) -> Path:
    return out.with_name(out.name + suffix)


def _writers() -> dict[str, Callable[[Restorer, Path, str], check.Run]]:
    from ipt_jax.weights import authors
    from ipt_jax.weights import folder as weights_folder
    from ipt_jax.weights.load import load, read_file

    def theirs(kind: str) -> Callable[[Restorer, Path, str], check.Run]:
        def write(restorer: Restorer, part: Path, dtype: str) -> check.Run:
            authors.write(restorer, part, kind)
            return authors.read(
                part, task=",".join(restorer.tasks), heads=restorer.model.heads
            ).apply

        return write

    def npz(restorer: Restorer, part: Path, dtype: str) -> check.Run:
        weights_folder.write_npz(restorer, part)
        return read_file(part).apply

    def folder(restorer: Restorer, part: Path, dtype: str) -> check.Run:
        weights_folder.write(restorer, part, dtype)
        return load(str(part)).apply

    def stablehlo(restorer: Restorer, part: Path, dtype: str) -> check.Run:
        from ipt_jax.export import stablehlo

        return stablehlo.write(restorer, part)

    def onnx(restorer: Restorer, part: Path, dtype: str) -> check.Run:
        from ipt_jax.export import onnx_file

        return onnx_file.write(restorer, part, dtype)

    made: dict[str, Any] = {
        "torch": theirs("torch"),
        "safetensors": theirs("safetensors"),
        "npz": npz,
        "folder": folder,
        "stablehlo": stablehlo,
        "onnx": onnx,
    }
    return made
