"""Files of the authors' weights: what model and tasks they are for, from names and shapes; and
writing such files.
"""

from __future__ import annotations

import collections
import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ipt_jax.errors import WeightsError
from ipt_jax.messages import listed
from ipt_jax.model import IPT
from ipt_jax.restore.restorer import Restorer
from ipt_jax.tasks import PAPER_TASKS, TASKS
from ipt_jax.versions import __version__
from ipt_jax.weights import mindspore
from ipt_jax.weights import state_dict as weights
from ipt_jax.weights import tensor_files as tensors
from ipt_jax.weights.named import named_task, sha256
from ipt_jax.weights.state_dict import StateDict

HEADS = 12

logger = logging.getLogger("ipt_jax")


def read(
    path: Any, task: str | None = None, heads: int | None = None, state: StateDict | None = None
) -> Restorer:
    """A file of the authors' names: .pt, .safetensors or .ckpt.

    Args:
      path: the file.
      state: its tensors, if they have been read already.
      task: its tasks by name, comma-separated, where neither their scales nor the file (one of our
        exports) tell them.
      heads: attention heads; what the file says if it is one of our exports, else 12.

    Raises:
      WeightsError: not such a file, or not this architecture's; all that is missing, unexpected or
        mis-shaped is listed.
    """
    file = Path(path)
    if not file.is_file():
        raise WeightsError(f"{file} is not a file")
    state = tensors.read(file) if state is None else state
    hints = tensors.hints(file)
    try:
        said = hints.get("heads", "")
        default = int(said) if said.isdecimal() and len(said) < 4 else HEADS
        model = geometry(state, task or hints.get("tasks"), default if heads is None else heads)
        params = weights.params_from_torch(state, model)
    except WeightsError as error:
        raise WeightsError(f"{file}: {error}") from None
    provenance = {
        "from": file.name,
        "sha256": sha256(file),
        "imported by": f"ipt_jax {__version__}",
    }
    if tensors.is_mindspore(file) or "norm_eps" in hints:
        eps = (
            mindspore.LAYER_NORM_EPS
            if tensors.is_mindspore(file)
            else _eps(hints["norm_eps"], file)
        )
        model = model.clone(norm_eps=eps)
    return Restorer(
        model, params, {name: named_task(name, scale) for name, scale in model.scales}, provenance
    )


def _eps(text: str, file: Path) -> float:
    """The LayerNorm eps that a file of ours says beside its tensors."""
    try:
        eps = float(text)
    except ValueError:
        eps = 0.0
    if not 0 < eps < 1:
        raise WeightsError(f"{file}: a LayerNorm eps of {text!r}")
    return eps


def geometry(state: StateDict, task: str | None, heads: int) -> IPT:
    """The model that a state dict is for, from names and shapes alone.

    Raises:
      WeightsError: it is not IPT's, `heads` does not divide, or its tasks must be named; the
        message says how.
    """

    def shape(name: str, dims: int) -> tuple[int, ...]:
        if name not in state:
            raise WeightsError(f"not IPT's weights: no {name}; it holds {listed(sorted(state))}")
        if state[name].ndim != dims or 0 in state[name].shape:
            raise WeightsError(f"not IPT's weights: {name} is {list(state[name].shape)}")
        return state[name].shape

    features = shape("head.0.0.weight", 4)[0]
    width = shape("body.linear_encoding.weight", 2)[0]
    patch = math.isqrt(width // features)
    tokens = shape(weights.POSITION, 2)[0]
    side = math.isqrt(tokens)
    if features * patch**2 != width or side**2 != tokens:
        raise WeightsError(
            f"not IPT's weights: {tokens} tokens of {width} do not fit {features} features"
        )
    if heads < 1 or width % heads:
        raise WeightsError(
            f"heads={heads} does not divide the token width {width}; name the right number with "
            "--heads"
        )
    scales = _tails(state, features)
    heads_found = _count(state, r"head\.(\d+)\.")
    queries = shape(weights.QUERIES, 2)[0]
    if not len(scales) == heads_found == queries:
        raise WeightsError(
            f"{heads_found} heads, {len(scales)} tails and {queries} task embeddings do not go "
            "together"
        )
    return IPT(
        tuple(zip(_task_names(scales, task), scales, strict=True)),
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
    """Numbers 0, 1, ... that stand in names; a gap counts up to the last, so that what is missing
    gets listed.
    """
    found = {int(match[1]) for name in state if (match := re.match(pattern, name))}
    count = max(found, default=-1) + 1
    if not found or count > 10 * len(found):
        raise WeightsError(
            f"not IPT's weights: {pattern.replace(chr(92), '')} stands for {sorted(found)[:5]}"
        )
    return count


def _tails(state: StateDict, features: int) -> list[int]:
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


def _task_names(scales: Sequence[int], task: str | None) -> list[str]:
    if task is not None:
        given = [word.strip() for word in task.split(",")]
        if len(given) != len(scales):
            raise WeightsError(
                f"--task names {len(given)} tasks, but there are {len(scales)}, for "
                f"{_written(scales)}"
            )
        if len(set(given)) != len(given) or not all(word.isidentifier() for word in given):
            raise WeightsError(f"--task {task}: names must be words, each once")
        for name, scale in zip(given, scales, strict=True):
            named_task(name, scale)
        return given
    if list(scales) == [TASKS[name].scale for name in PAPER_TASKS]:
        return list(PAPER_TASKS)
    if len(set(scales)) == len(scales) and 1 not in scales:
        return [f"sr{scale}" for scale in scales]
    raise WeightsError(
        f"its shapes do not tell the tasks: tails for {_written(scales)}; name them in that order, "
        "e.g. "
        f"--task {','.join(f'sr{s}' if s > 1 else 'denoise50' for s in scales)}"
    )


def _written(scales: Sequence[int]) -> str:
    return ", ".join(f"x{scale}" for scale in scales)


def write(restorer: Restorer, path: Path, kind: str) -> None:
    """Writes the authors' names and layout, "torch" (.pt) or "safetensors".

    Raises:
      WeightsError: torch is needed and missing, or their code has no such network.
    """
    model = restorer.model
    if model.memory_norm or not model.encoder_layers or not model.decoder_layers:
        raise WeightsError(
            f"--format {kind}: the authors' code has no network with "
            f"encoder_layers={model.encoder_layers}, "
            f"decoder_layers={model.decoder_layers}, memory_norm={model.memory_norm}; --format "
            "folder keeps it"
        )
    state = weights.params_to_torch(restorer.params, restorer.model)
    texts = {key: value for key, value in restorer.provenance.items() if isinstance(value, str)}
    said = {**texts, "tasks": ",".join(restorer.tasks), "heads": str(restorer.model.heads)}
    if restorer.model.norm_eps != 1e-5:
        said["norm_eps"] = repr(restorer.model.norm_eps)
        logger.warning(
            "these weights are for a LayerNorm eps of %g; the authors' PyTorch code computes with "
            "1e-5",
            restorer.model.norm_eps,
        )
    if kind == "safetensors":
        from safetensors.numpy import save

        path.write_bytes(save(state, metadata={"format": "pt", **said}))
        return
    try:
        import torch
    except ImportError:
        raise WeightsError(
            "--format torch needs torch: pip install 'ipt_jax[torch]'; --format safetensors does not"
        ) from None
    made = collections.OrderedDict(
        (name, torch.from_numpy(np.array(value))) for name, value in state.items()
    )
    # Where modules keep their versions: load_state_dict passes over it, and the tensors stay the
    # only entries.
    made._metadata = collections.OrderedDict({"": {"version": 1, "ipt_jax": said}})  # type: ignore[attr-defined]
    torch.save(made, path)
