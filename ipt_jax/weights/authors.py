"""Files with the authors' names: reading and writing them, and the model that they are for.

The model and its tasks are found from the names and shapes of the tensors.
"""

from __future__ import annotations

import collections
import logging
import math
import re
from pathlib import Path

import numpy as np

from ipt_jax.errors import WeightsError
from ipt_jax.messages import listed
from ipt_jax.model import IPT
from ipt_jax.restore.restorer import Restorer
from ipt_jax.versions import __version__, install
from ipt_jax.weights import mindspore
from ipt_jax.weights.state_dict import (
    POSITION,
    QUERIES,
    StateDict,
    params_from_torch,
    params_to_torch,
)
from ipt_jax.weights.task_names import names_from_scales, task_from_name
from ipt_jax.weights.tensor_files import TensorFile, read_tensor_file, sha256_of

# The number of attention heads of the published network, which shapes do not tell.
HEADS = 12
TORCH_LAYER_NORM_EPS = 1e-5

logger = logging.getLogger("ipt_jax")


def read_authors_file(
    path: Path, task: str | None = None, heads: int | None = None, content: TensorFile | None = None
) -> Restorer:
    """Reads a .pt, .safetensors or .ckpt file with the authors' names.

    Args:
      path: the file.
      task: names of its tasks, comma-separated, where neither their scales nor hints in the file
        (if it is one of our exports) tell them.
      heads: number of attention heads; None for the hint in the file, else 12.
      content: the content of the file, if it has been read already.

    Raises:
      WeightsError: the file has another format or holds another architecture; all missing,
        unexpected and mis-shaped tensors are listed.
    """
    if not path.is_file():
        raise WeightsError(f"{path} is not a file")
    content = read_tensor_file(path) if content is None else content
    hints = content.hints
    try:
        hint = hints.get("heads", "")
        default = int(hint) if hint.isdecimal() and len(hint) < 4 else HEADS
        model = geometry(
            content.tensors, task or hints.get("tasks"), default if heads is None else heads
        )
        params = params_from_torch(content.tensors, model)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    provenance = {
        "from": path.name,
        "sha256": sha256_of(path),
        "imported by": f"ipt_jax {__version__}",
    }
    if content.mindspore:
        model = model.clone(norm_eps=mindspore.LAYER_NORM_EPS)
    elif "norm_eps" in hints:
        model = model.clone(norm_eps=_parse_eps(hints["norm_eps"], path))
    tasks = {name: task_from_name(name, scale) for name, scale in model.scales}
    return Restorer(model, params, tasks, provenance)


def _parse_eps(text: str, file: Path) -> float:
    """Returns the LayerNorm eps that one of our exports states beside its tensors."""
    try:
        eps = float(text)
    except ValueError:
        eps = 0.0
    if not 0 < eps < 1:
        raise WeightsError(f"{file}: its LayerNorm eps is {text!r}; it must be between 0 and 1")
    return eps


def geometry(state: StateDict, task: str | None, heads: int) -> IPT:
    """Returns the model that a state dict is for, from its names and shapes alone.

    Args:
      state: the tensors.
      task: names of the tasks, comma-separated; None where their scales tell them.
      heads: number of attention heads.

    Raises:
      WeightsError: the state dict is not IPT's, `heads` does not divide the token width, or the
        tasks must be named; the message explains how.
    """

    def shape(name: str, dims: int) -> tuple[int, ...]:
        if name not in state:
            raise WeightsError(f"not IPT's weights: no {name}; it contains {listed(sorted(state))}")
        if state[name].ndim != dims or 0 in state[name].shape:
            raise WeightsError(f"not IPT's weights: {name} is {list(state[name].shape)}")
        return state[name].shape

    features = shape("head.0.0.weight", 4)[0]
    width = shape("body.linear_encoding.weight", 2)[0]
    patch = math.isqrt(width // features)
    tokens = shape(POSITION, 2)[0]
    side = math.isqrt(tokens)
    if features * patch**2 != width or side**2 != tokens:
        raise WeightsError(
            f"not IPT's weights: {tokens} tokens of {width} do not fit {features} features"
        )
    if heads < 1 or width % heads:
        raise WeightsError(
            f"heads={heads} does not divide the token width {width}; give the right number with "
            "--heads"
        )
    scales = _tails(state, features)
    heads_found = _count(state, r"head\.(\d+)\.")
    queries = shape(QUERIES, 2)[0]
    if not len(scales) == heads_found == queries:
        raise WeightsError(
            f"{heads_found} heads, {len(scales)} tails and {queries} task embeddings do not match"
        )
    return IPT(
        tuple(zip(names_from_scales(scales, task), scales, strict=True)),
        features=features,
        patch=patch,
        heads=heads,
        encoder_layers=_count(state, r"body\.encoder\.layers\.(\d+)\."),
        decoder_layers=_count(state, r"body\.decoder\.layers\.(\d+)\."),
        hidden=shape("body.encoder.layers.0.linear1.weight", 2)[0],
        tile=side * patch,
        out_bias=any(name.endswith("out_proj.bias") for name in state),
    )


def _count(state: StateDict, pattern: str) -> int:
    """Returns how many numbers 0, 1, ... the names contain at the pattern's group.

    A gap is counted, so that the missing tensors are listed later.
    """
    found = {int(match[1]) for name in state if (match := re.match(pattern, name))}
    count = max(found, default=-1) + 1
    if not found or count > 10 * len(found):
        raise WeightsError(
            f"not IPT's weights: {pattern.replace(chr(92), '')} has the numbers {sorted(found)[:5]}"
        )
    return count


def _tails(state: StateDict, features: int) -> list[int]:
    """Returns the scale of each tail."""
    scales = []
    for i in range(_count(state, r"tail\.(\d+)\.")):
        first = state.get(f"tail.{i}.0.0.weight")
        if first is None:
            scales.append(1)
        elif f"tail.{i}.0.2.weight" in state:
            scales.append(4)
        else:
            scales.append(
                math.isqrt(max(first.shape[0] if first.ndim else 0, features) // features)
            )
            if scales[-1] < 2:
                raise WeightsError(
                    f"not IPT's weights: tail.{i}.0.0.weight, {list(first.shape)}, is for "
                    f"x{scales[-1]}"
                )
    return scales


def write_authors_file(restorer: Restorer, path: Path, kind: str) -> None:
    """Writes a file with the authors' names and layout.

    Args:
      restorer: the weights.
      path: the file.
      kind: "torch" (.pt) or "safetensors".

    Raises:
      WeightsError: torch is needed and missing, or the authors' code has no such network.
    """
    model = restorer.model
    if model.memory_norm or not model.encoder_layers or not model.decoder_layers:
        raise WeightsError(
            f"--format {kind}: the authors' code has no network with "
            f"encoder_layers={model.encoder_layers}, decoder_layers={model.decoder_layers}, "
            f"memory_norm={model.memory_norm}; use --format folder"
        )
    state = params_to_torch(restorer.params, model)
    hints = {key: value for key, value in restorer.provenance.items() if isinstance(value, str)}
    hints |= {"tasks": ",".join(restorer.tasks), "heads": str(model.heads)}
    if model.norm_eps != TORCH_LAYER_NORM_EPS:
        hints["norm_eps"] = repr(model.norm_eps)
        logger.warning(
            "these weights are for a LayerNorm eps of %g; the authors' PyTorch code computes with "
            "%g",
            model.norm_eps,
            TORCH_LAYER_NORM_EPS,
        )
    if model.heads != HEADS:
        logger.warning(
            "these weights have %d attention heads, which the names and shapes of the file do not "
            "tell; the authors' code and spandrel (chaiNNer, ComfyUI) take %d for granted and "
            "would compute something else without an error: build the network with num_heads=%d, "
            "or export with --format onnx --layout nchw (docs/exporting.md)",
            model.heads,
            HEADS,
            model.heads,
        )
    if kind == "safetensors":
        from safetensors.numpy import save

        path.write_bytes(save(state, metadata={"format": "pt", **hints}))
        return
    try:
        import torch
    except ImportError:
        raise WeightsError(
            f"--format torch needs torch: {install('torch')}; --format safetensors does not need it"
        ) from None
    tensors = collections.OrderedDict(
        (name, torch.from_numpy(np.array(value))) for name, value in state.items()
    )
    # torch stores the versions of modules in this attribute. load_state_dict ignores other keys in
    # it, so the tensors stay the only entries of the file.
    tensors._metadata = collections.OrderedDict(  # type: ignore[attr-defined]
        {"": {"version": 1, "ipt_jax": hints}}
    )
    torch.save(tensors, path)
