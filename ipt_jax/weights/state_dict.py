"""The authors' names and layouts: their state dict to our parameters and back.

Theirs are PyTorch's: linear `[out, in]`, convolution `[out, in, kh, kw]`, tasks by index, separate
layers. Ours: linear `[in, out]`, convolution `[kh, kw, in, out]`, tasks by name, stacked layers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
from flax.traverse_util import unflatten_dict

from ipt_jax.errors import WeightsError
from ipt_jax.model import IPT
from ipt_jax.model.ipt import RGB_MEAN
from ipt_jax.model.layers import upsampling_steps

StateDict = Mapping[str, np.ndarray]

# Keys from the root of our parameters to a leaf.
TreePath = tuple[str, ...]

POSITION, QUERIES = "body.position_encoding.pe.weight", "body.query_embed.weight"


class Name(NamedTuple):
    """One of the authors' tensors, and its place in our parameters.

    Attributes:
      theirs: name in their state dict.
      path: path of the leaf in our parameters.
      layer: index within a leaf of stacked layers; None for other leaves.
    """

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
    """Returns every trained tensor except the task embeddings.

    The embeddings are rows of one tensor of theirs, `QUERIES`.
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
    """Returns the constant tensors of their files: the shifts by the mean, and positions from 0."""
    fixed: dict[str, np.ndarray] = {"body.position_encoding.position_ids": np.arange(tokens)[None]}
    for shift, sign in (("sub_mean", -1), ("add_mean", 1)):
        fixed[f"{shift}.weight"] = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
        mean = (np.array(RGB_MEAN) / 255).astype(np.float32)
        # The product is in float32 as in their code, so that the last bit is the same.
        fixed[f"{shift}.bias"] = np.float32(sign * 255) * mean
    return fixed


@functools.lru_cache(maxsize=8)
def abstract(model: IPT) -> Any:
    """Returns shapes and dtypes of a model's parameters.

    The result is cached, because tracing takes a second.
    """
    return jax.eval_shape(lambda: model.init_params(0))


def shapes(model: IPT) -> dict[str, tuple[int, ...]]:
    """Returns the shapes, in PyTorch's layout, of all trained tensors in their state dict."""
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
    """Returns all missing, unexpected, mis-shaped and non-finite tensors, one message each."""
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
            wrong.append(f"{name}: it contains values that are not finite")
    for name in fixed.keys() & state.keys():
        if state[name].shape != fixed[name].shape or not _is_published(state[name], fixed[name]):
            wrong.append(
                f"{name}: it is not the published value, which is for images in 0..255 and the "
                "mean of DIV2K"
            )
    return sorted(wrong)


def _is_published(value: np.ndarray, published: np.ndarray) -> bool:
    """Returns whether a constant tensor has its published value in one of the usual precisions.

    A file in half precision holds the value that is nearest to the published one there.
    """
    return any(
        np.allclose(value, published.astype(dtype).astype(np.float64), rtol=1e-5, atol=1e-5)
        for dtype in (np.float64, np.float16, ml_dtypes.bfloat16)
    )


def params_from_torch(state: StateDict, model: IPT) -> dict[str, Any]:
    """Returns our parameters from the authors' state dict.

    Args:
      state: numpy arrays by name; its tasks are those of the model, in the model's order.
      model: the model, with an `input_scale` of 1.

    Raises:
      WeightsError: the state dict is not the model's; every name that differs is listed.
      ValueError: the model's `input_scale` is not 1; the authors' weights compute in 0..255.
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
    """Returns the authors' state dict, constant tensors included: inverts `params_from_torch`.

    `input_scale` is folded into the first and the last convolution, so that the network computes in
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
