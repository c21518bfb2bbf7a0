"""Attention of short sequences as one kernel for TPUs, written in Pallas.

XLA writes the logits and the weights of attention, `[heads, N, N]` for each image, to the chip's
memory and reads them again several times. Here one step of the grid takes one image, and all that
is between q, k, v and the result stays in VMEM. The backward pass computes the weights again from q
and k, so that nothing else is kept.

Features are on rows, images and tokens on columns: q, k and v are parts of arrays `[.., B N]`, with
head h in rows h * size to (h + 1) * size. A head of 48 features is then a multiple of bfloat16's
tile of 16 rows, and neither heads nor parts need padding or moving.

The kernel was compiled by the TPU compiler for v4, v5e, v5p and v6e, and its values and gradients
were compared with plain attention by Pallas' interpreter. It has not run on a chip.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec

Array = jax.Array

# For q, k and v: the number of the array that holds it, and its place there in units of D rows.
Parts = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
SELF: Parts = ((0, 0), (0, 1), (0, 2))
SHARED_KEY: Parts = ((0, 0), (0, 1), (1, 0))
SHARED_VALUE: Parts = ((0, 0), (1, 0), (1, 1))
SEPARATE: Parts = ((0, 0), (1, 0), (2, 0))

# What the kernel needs: whole tiles of 128 columns, and whole tiles of bfloat16's 16 rows.
TOKENS_UNIT, SIZE_UNIT = 128, 16
# With more tokens, the logits of one head do not fit into VMEM beside their gradients.
LARGEST_TOKENS = 512
# Heads that the forward pass computes side by side, for 256 tokens: products of one head fill the
# time in which the softmax of another one waits.
_SIDE_BY_SIDE = 6
_LOG2_E = math.log2(math.e)


def fits(tokens: int, size: int) -> bool:
    """Returns whether the kernel can be used for `tokens` tokens and heads of `size` features."""
    return tokens % TOKENS_UNIT == 0 and tokens <= LARGEST_TOKENS and size % SIZE_UNIT == 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def fused_attention(
    arrays: tuple[Array, ...], parts: Parts, heads: int, tokens: int, interpret: bool = False
) -> Array:
    """Returns softmax(q k^T / sqrt(size)) v for each head and image.

    Args:
      arrays: `[rows, B N]`, which hold q, k and v as `parts` says; all of one dtype.
      parts: one of `SELF`, `SHARED_KEY`, `SHARED_VALUE` and `SEPARATE`.
      heads: the number of heads, a divisor of D.
      tokens: the number N of tokens of an image.
      interpret: run in Pallas' interpreter, on any device.

    Returns:
      `[D, B N]` in the dtype of the arrays. Logits and softmax are float32.
    """
    width = sum(x.shape[0] for x in arrays) // 3
    out = jax.ShapeDtypeStruct((width, arrays[0].shape[1]), arrays[0].dtype)
    kernel = functools.partial(_forward_kernel, parts=parts, heads=heads, width=width)
    return pl.pallas_call(
        kernel,
        grid=(out.shape[1] // tokens,),
        in_specs=[_block(x, tokens) for x in arrays],
        out_specs=_block(out, tokens),
        out_shape=out,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        cost_estimate=_cost((*arrays, out), width, heads, tokens, products=2),
        interpret=interpret,
        name="attention_forward",
    )(*arrays)


def _fused_forward(
    arrays: tuple[Array, ...], parts: Parts, heads: int, tokens: int, interpret: bool
) -> tuple[Array, tuple[Array, ...]]:
    return fused_attention(arrays, parts, heads, tokens, interpret), arrays


def _fused_backward(
    parts: Parts,
    heads: int,
    tokens: int,
    interpret: bool,
    arrays: tuple[Array, ...],
    gradient: Array,
) -> tuple[tuple[Array, ...]]:
    width = gradient.shape[0]
    kernel = functools.partial(
        _backward_kernel, parts=parts, arrays=len(arrays), heads=heads, width=width
    )
    gradients = pl.pallas_call(
        kernel,
        grid=(gradient.shape[1] // tokens,),
        in_specs=[_block(x, tokens) for x in (*arrays, gradient)],
        out_specs=[_block(x, tokens) for x in arrays],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        cost_estimate=_cost((*arrays, *arrays, gradient), width, heads, tokens, products=5),
        interpret=interpret,
        name="attention_backward",
    )(*arrays, gradient)
    return (tuple(gradients),)


fused_attention.defvjp(_fused_forward, _fused_backward)


def _block(array: Any, tokens: int) -> pl.BlockSpec:
    """Returns the block of an array that belongs to one image: its columns, and all rows."""
    return pl.BlockSpec((array.shape[0], tokens), lambda image: (0, image))


def _cost(
    moved: Sequence[Any], width: int, heads: int, tokens: int, *, products: int
) -> pl.CostEstimate:
    images = moved[0].shape[1] // tokens
    return pl.CostEstimate(
        flops=2 * products * images * tokens * tokens * width,
        transcendentals=images * heads * tokens * tokens,
        bytes_accessed=sum(math.prod(x.shape) * jnp.dtype(x.dtype).itemsize for x in moved),
    )


def _dot(a: Array, b: Array, axis_a: int, axis_b: int) -> Array:
    """Returns the product of two matrices, summed over these axes, in float32."""
    # Products of float32, which only tests use, must be exact.
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jax.lax.dot_general(
        a,
        b,
        (((axis_a,), (axis_b,)), ((), ())),
        precision=exact,
        preferred_element_type=jnp.float32,
    )


def _rows(place: int, head: int, width: int, size: int) -> slice:
    first = place * width + head * size
    return slice(first, first + size)


def _logits(q: Array, k: Array) -> tuple[Array, Array]:
    """Returns q times log2(e) / sqrt(size), and the logits `[keys, queries]` in base 2, float32."""
    scaled = (q.astype(jnp.float32) * (q.shape[0] ** -0.5 * _LOG2_E)).astype(q.dtype)
    return scaled, _dot(k, scaled, 0, 0)


def _softmax(logits: Array) -> tuple[Array, Array]:
    """Returns 2^(logits - largest) `[keys, queries]`, and 1 / its sum over the keys."""
    powers = jnp.exp2(logits - jnp.max(logits, axis=0, keepdims=True))
    return powers, 1.0 / jnp.sum(powers, axis=0, keepdims=True)


def _forward_kernel(*refs: Any, parts: Parts, heads: int, width: int) -> None:
    *inputs, out = refs
    size, tokens = width // heads, out.shape[1]
    together = max(1, _SIDE_BY_SIDE * 256**2 // tokens**2)
    for first in range(0, heads, together):
        group = range(first, min(heads, first + together))
        qkv = [[inputs[a][_rows(place, h, width, size), :] for a, place in parts] for h in group]
        logits = [_logits(q, k)[1] for q, k, _ in qkv]
        for head, (_, _, v), one in zip(group, qkv, logits, strict=True):
            powers, share = _softmax(one)
            # The product is divided by the sum: it has fewer rows than the weights.
            mixed = _dot(v, powers.astype(v.dtype), 1, 0) * share
            out[_rows(0, head, width, size), :] = mixed.astype(out.dtype)


def _backward_kernel(*refs: Any, parts: Parts, arrays: int, heads: int, width: int) -> None:
    """Computes the gradients of q, k and v, with p = 2^(logits - largest) and s = 1 / sum(p).

    For the gradient g of the result and g' = g s: dw = v^T g', dlogits = p (dw - s sum(p dw)).
    """
    inputs, gradient, outputs = refs[:arrays], refs[arrays], refs[arrays + 1 :]
    size = width // heads
    for head in range(heads):
        q, k, v = (inputs[a][_rows(place, head, width, size), :] for a, place in parts)
        scaled, logits = _logits(q, k)
        powers, share = _softmax(logits)
        g = (gradient[_rows(0, head, width, size), :].astype(jnp.float32) * share).astype(q.dtype)
        dw = _dot(v, g, 0, 0)
        dlogits = powers * (dw - share * jnp.sum(powers * dw, axis=0, keepdims=True))
        dlogits = dlogits.astype(q.dtype)
        found = (
            _dot(k, dlogits, 1, 0) * size**-0.5,
            _dot(scaled, dlogits, 1, 1) * (1 / _LOG2_E),
            _dot(g, powers.astype(q.dtype), 1, 1),
        )
        for (a, place), value in zip(parts, found, strict=True):
            outputs[a][_rows(place, head, width, size), :] = value.astype(outputs[a].dtype)


@dataclasses.dataclass(frozen=True)
class FusedAttention:
    """The kernel for the body of a network: for all devices of a mesh, and with what it needs.

    XLA does not split a kernel between devices, so each device runs it for its own images.

    Attributes:
      tokens: the number N of tokens of an image.
      mesh: the devices, over all of whose axes the images are split; None for one device.
      interpret: run in Pallas' interpreter, on any device.
    """

    tokens: int
    mesh: Any = None
    interpret: bool = False

    def __call__(self, arrays: tuple[Array, ...], parts: Parts, heads: int) -> Array:
        """Returns `[D, B N]`; see `fused_attention`."""

        def on_one_device(*own: Array) -> Array:
            return fused_attention(own, parts, heads, self.tokens, self.interpret)

        if self.mesh is None or self.mesh.size == 1:
            return on_one_device(*arrays)
        columns = PartitionSpec(None, tuple(self.mesh.axis_names))
        return jax.shard_map(
            on_one_device,
            mesh=self.mesh,
            in_specs=(columns,) * len(arrays),
            out_specs=columns,
            check_vma=False,
        )(*arrays)
