"""The authors' names and layouts: their state dict to our parameters and back; what a state dict
tells of its model.

Theirs is PyTorch's: linear `[out, in]`, convolution `[out, in, kh, kw]`, tasks by index, layers one
by one. Ours: linear `[in, out]`, convolution `[kh, kw, in, out]`, tasks by name, layers stacked.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from ipt_jax.errors import WeightsError
from ipt_jax.model import IPT
from ipt_jax.model.ipt import RGB_MEAN
from ipt_jax.model.layers import upsampling_steps

StateDict = Mapping[str, np.ndarray]

TreePath = tuple[str, ...]

POSITION, QUERIES = "body.position_encoding.pe.weight", "body.query_embed.weight"


class Name(NamedTuple):
    """One of their tensors, and where it is in our tree: a path, and the layer of a stack."""

    theirs: str
    path: TreePath
    layer: int | None = None


def _product(theirs: str, *ours: str) -> Iterator[Name]:
    yield Name(f"{theirs}.weight", (*ours, "kernel"))
    yield Name(f"{theirs}.bias", (*ours, "bias"))


def _attention(theirs: str, out_bias: bool, *ours: str) -> Iterator[Name]:
    yield Name(f"{theirs}.in_proj_weight", (*ours, "qkv"))
    yield Name(f"{theirs}.out_proj.weight", (*ours, "out", "kernel"))
    if out_bias:
        yield Name(f"{theirs}.out_proj.bias", (*ours, "out", "bias"))


def _layer(theirs: str, decoder: bool, out_bias: bool, *ours: str) -> Iterator[Name]:
    yield from _attention(f"{theirs}.self_attn", out_bias, *ours, "self_attention")
    if decoder:
        yield from _attention(f"{theirs}.multihead_attn", out_bias, *ours, "cross_attention")
    yield from _product(f"{theirs}.linear1", *ours, "feed_forward", "in")
    yield from _product(f"{theirs}.linear2", *ours, "feed_forward", "out")
    for norm in ("norm1", "norm2", "norm3")[: 3 if decoder else 2]:
        yield Name(f"{theirs}.{norm}.weight", (*ours, norm, "norm", "scale"))
        yield Name(f"{theirs}.{norm}.bias", (*ours, norm, "norm", "bias"))


def names(model: IPT) -> list[Name]:
    """Every trained tensor but the task embeddings, which are rows of one tensor of theirs
    (`QUERIES`).
    """
    found = [
        *_product("body.linear_encoding", "body", "linear"),
        *_product("body.mlp_head.0", "body", "mlp", "in"),
        *_product("body.mlp_head.3", "body", "mlp", "out"),
        Name(POSITION, ("body", "position")),
    ]
    for stack, length in (("encoder", model.encoder_layers), ("decoder", model.decoder_layers)):
        for i in range(length):
            layer = _layer(
                f"body.{stack}.layers.{i}", stack == "decoder", model.out_bias, "body", stack
            )
            found += [name._replace(layer=i) for name in layer]
    for i, (task, scale) in enumerate(model.scales):
        found += _product(f"head.{i}.0", f"task_{task}", "head", "conv")
        for block in (1, 2):
            for theirs, ours in ((0, "conv1"), (2, "conv2")):
                found += _product(
                    f"head.{i}.{block}.body.{theirs}", f"task_{task}", "head", f"block{block}", ours
                )
        for step, _ in enumerate(upsampling_steps(scale)):
            found += _product(f"tail.{i}.0.{2 * step}", f"task_{task}", "tail", f"up{step}")
        found += _product(f"tail.{i}.1", f"task_{task}", "tail", "conv")
    return found


def _to_ours(array: np.ndarray, path: TreePath) -> np.ndarray:
    if array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
    elif array.ndim == 2 and path[-1] in ("kernel", "qkv"):
        array = array.T
    return np.ascontiguousarray(array)


def _to_theirs(array: np.ndarray, path: TreePath) -> np.ndarray:
    if array.ndim == 4:
        array = array.transpose(3, 2, 0, 1)
    elif array.ndim == 2 and path[-1] in ("kernel", "qkv"):
        array = array.T
    return np.ascontiguousarray(array)


def fixed_tensors(tokens: int) -> dict[str, np.ndarray]:
    """What their files hold beside trained tensors: the mean's shift, and positions counted from
    0.
    """
    fixed: dict[str, np.ndarray] = {"body.position_encoding.position_ids": np.arange(tokens)[None]}
    for shift, sign in (("sub_mean", -1), ("add_mean", 1)):
        fixed[f"{shift}.weight"] = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
        mean = (np.array(RGB_MEAN) / 255).astype(np.float32)
        # In float32, as theirs: the last bit counts
        fixed[f"{shift}.bias"] = np.float32(sign * 255) * mean
    return fixed


@functools.lru_cache(maxsize=8)
def abstract(model: IPT) -> Any:
    """Shapes and dtypes of a model's parameters; tracing takes a while, so a model is traced
    once.
    """
    return jax.eval_shape(lambda: model.init_params(0))


def shapes(model: IPT) -> dict[str, tuple[int, ...]]:
    """Every trained tensor of the authors' state dict for a model, with its shape in PyTorch's
    layout.
    """
    ours = abstract(model)
    found: dict[str, tuple[int, ...]] = {QUERIES: (len(model.scales), model.tokens * model.width)}
    for theirs, path, layer in names(model):
        shape = _leaf(ours, path).shape[0 if layer is None else 1 :]
        if len(shape) == 4:
            shape = (shape[3], shape[2], shape[0], shape[1])
        elif len(shape) == 2 and path[-1] in ("kernel", "qkv"):
            shape = shape[::-1]
        found[theirs] = tuple(shape)
    return found


def differences(state: StateDict, model: IPT) -> list[str]:
    """All that keeps a state dict from being the model's: missing, unexpected, mis-shaped and
    non-finite tensors.
    """
    want, fixed = shapes(model), fixed_tensors(model.tokens)
    wrong = [f"{name}: missing, {list(want[name])}" for name in want.keys() - state.keys()]
    wrong += [
        f"{name}: unexpected, {list(state[name].shape)}"
        for name in state.keys() - want.keys() - fixed.keys()
    ]
    for name in want.keys() & state.keys():
        if state[name].shape != want[name]:
            wrong.append(f"{name}: {list(state[name].shape)}, not {list(want[name])}")
        elif state[name].dtype.kind != "f":
            wrong.append(f"{name}: {state[name].dtype}, not floating point")
        elif not np.isfinite(state[name]).all():
            wrong.append(f"{name}: holds values that are not finite")
    for name in fixed.keys() & state.keys():
        if state[name].shape != fixed[name].shape or not np.allclose(
            state[name], fixed[name], rtol=1e-5, atol=1e-5
        ):
            wrong.append(
                f"{name}: not the published value; pictures are taken as 0..255 with the mean of "
                "DIV2K"
            )
    return sorted(wrong)


def params_from_torch(state: StateDict, model: IPT) -> dict[str, Any]:
    """Our parameters from the authors' state dict (numpy arrays), whose tasks are the model's, in
    its order.

    Raises:
      WeightsError: the state dict is not the model's; every name that differs is listed.
      ValueError: the model's `input_scale` is not 1, which is what the authors' weights compute in.
    """
    if model.input_scale != 1:
        raise ValueError(
            "the authors' weights compute in 0..255: input_scale must be 1, not "
            f"{model.input_scale}"
        )
    wrong = differences(state, model)
    if wrong:
        raise WeightsError("these are not the model's weights:\n  " + "\n  ".join(wrong))
    leaves: dict[TreePath, list[np.ndarray]] = {}
    stacked = set()
    for theirs, path, layer in names(model):
        leaves.setdefault(path, []).append(_to_ours(np.asarray(state[theirs]), path))
        if layer is not None:
            stacked.add(path)
    for i, (task, _) in enumerate(model.scales):
        leaves[(f"task_{task}", "embedding")] = [
            np.asarray(state[QUERIES][i]).reshape(model.tokens, model.width)
        ]
    return unflatten_dict(
        {path: np.stack(parts) if path in stacked else parts[0] for path, parts in leaves.items()}
    )


def params_to_torch(params: Mapping[str, Any], model: IPT) -> dict[str, np.ndarray]:
    """The authors' state dict from our parameters, the fixed tensors included: the inverse of
    `params_from_torch`.

    `input_scale` is folded into the first and the last convolution, so that the result computes in
    0..255.
    """
    state = {}
    for theirs, path, layer in names(model):
        leaf = _leaf(params, path)
        array = _to_theirs(np.asarray(leaf if layer is None else leaf[layer]), path)
        if model.input_scale != 1:
            if path[1:] == ("head", "conv", "kernel"):
                array = (array / model.input_scale).astype(array.dtype)
            elif path[1:3] == ("tail", "conv"):
                array = (array * model.input_scale).astype(array.dtype)
        state[theirs] = array
    state[QUERIES] = np.stack(
        [np.asarray(params[f"task_{name}"]["embedding"]).reshape(-1) for name in model.names]
    )
    return {**state, **fixed_tensors(model.tokens)}


def _leaf(tree: Any, path: TreePath) -> Any:
    for key in path:
        tree = tree[key]
    return tree
