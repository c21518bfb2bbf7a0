"""Multi-head attention: by matrix products, by a kernel for TPUs, or by cuDNN."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ipt_jax.model import fused_attention as kernels
from ipt_jax.model.dense import Array, Dtype, RowsOut, by_rows, dense, precision
from ipt_jax.model.fused_attention import FusedAttention
from ipt_jax.model.init import TorchStart


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def attention_weights(logits: Array, dtype: Dtype) -> Array:
    """Returns the softmax over the last axis, computed in float32 and returned in `dtype`.

    Only the result is kept for the backward pass. Automatic differentiation would also keep a
    float32 array, which with bfloat16 triples the memory that attention keeps.
    """
    return jax.nn.softmax(logits.astype(jnp.float32), axis=-1).astype(dtype)


def _weights_forward(logits: Array, dtype: Dtype) -> tuple[Array, Array]:
    weights = checkpoint_name(attention_weights(logits, dtype), "attention")
    return weights, weights


def _weights_backward(dtype: Dtype, weights: Array, gradient: Array) -> tuple[Array]:
    w, g = weights.astype(jnp.float32), gradient.astype(jnp.float32)
    return (w * (g - jnp.sum(w * g, axis=-1, keepdims=True)),)


attention_weights.defvjp(_weights_forward, _weights_backward)


def kept(x: Array, name: str, lead: tuple[int, ...]) -> Array:
    """Names an array that the backward pass may keep, with axes of 1 in front of its shape.

    The stacks of what a scan keeps start as zeros. XLA merges zeros of one shape, those of the
    encoder and of the decoder, and then really writes them; with different shapes it leaves them
    uninitialised.
    """
    return checkpoint_name(x.reshape(*lead, *x.shape), name).reshape(x.shape)


class Attention(nn.Module):
    """Multi-head attention without biases of the projections.

    The projections of query, key and value are one matrix `[D, 3 D]`. Inputs that are the same
    array share a product. `out_bias` adds a bias to the output projection, which some published
    files have because PyTorch 1.5 to 1.8 always created it.
    """

    heads: int
    start: TorchStart
    dtype: Dtype
    depth: int
    decoder: bool = False
    out_bias: bool = False
    kernel: FusedAttention | str | None = None

    @nn.compact
    def __call__(self, query: Array, key: Array, value: Array) -> Array:
        """Returns `[..., N, D]` from query, key and value, `[..., N, D]` each.

        With a fused kernel all tokens of all images are on one axis, `[..., B N, D]`.
        """
        width = query.shape[-1]
        kernel = self.param(
            "qkv", self.start.attention_in(width, self.decoder), (width, 3 * width), jnp.float32
        )
        kernel = kernel.astype(self.dtype)
        if isinstance(self.kernel, FusedAttention):
            return self._fused(self.kernel, kernel, query, key, value)

        def dot(x: Array, matrix: Array) -> Array:
            return by_rows(
                lambda rows: jnp.matmul(rows, matrix, precision=precision(self.dtype)), x
            )

        if query is key and key is value:
            q, k, v = jnp.split(dot(query, kernel), 3, axis=-1)
        elif query is key:
            q, k = jnp.split(dot(query, kernel[:, : 2 * width]), 2, axis=-1)
            v = dot(value, kernel[:, 2 * width :])
        else:
            q = dot(query, kernel[:, :width])
            k, v = (
                jnp.split(dot(key, kernel[:, width:]), 2, axis=-1)
                if key is value
                else (dot(key, kernel[:, width : 2 * width]), dot(value, kernel[:, 2 * width :]))
            )
        lead, tokens, size = query.shape[:-2], query.shape[-2], width // self.heads

        def split(x: Array) -> Array:
            # [B, heads, N, size], with each head's matrix contiguous: 12 % faster on a CPU.
            return x.reshape(-1, tokens, self.heads, size).transpose(0, 2, 1, 3)

        start = self.start.residual(width, self.depth)
        out = dense(width, start, nn.initializers.zeros, self.dtype, "out", self.out_bias)
        if self.kernel == "cudnn":
            by_tokens = [x.reshape(-1, tokens, self.heads, size) for x in (q, k, v)]
            mixed = jax.nn.dot_product_attention(*by_tokens, implementation="cudnn")
            return out(checkpoint_name(mixed.reshape(*lead, tokens, width), "attention"))
        q, k, v = split(q * size**-0.5), split(k), split(v)
        logits = jnp.einsum(
            "bhqd,bhkd->bhqk",
            q,
            k,
            precision=precision(self.dtype),
            preferred_element_type=jnp.float32,
        )
        weights = attention_weights(logits, self.dtype)
        mixed = jnp.einsum("bhqk,bhkd->bhqd", weights, v, precision=precision(self.dtype))
        mixed = checkpoint_name(mixed, "attention")
        return out(mixed.transpose(0, 2, 1, 3).reshape(*lead, tokens, width))

    def _fused(
        self, fused: FusedAttention, kernel: Array, query: Array, key: Array, value: Array
    ) -> Array:
        """Returns the same with projections `[.., R]`, features on rows, for the fused kernel."""
        width, lead = query.shape[-1], query.shape[:-2]

        def project(x: Array, matrix: Array) -> Array:
            rows = x.reshape(-1, width)
            found = jax.lax.dot_general(
                matrix, rows, (((0,), (1,)), ((), ())), precision=precision(self.dtype)
            )
            return kept(found, "qkv", lead)

        arrays: tuple[Array, ...]
        first, second = kernel[:, :width], kernel[:, width:]
        if query is key and key is value:
            arrays, parts = (project(query, kernel),), kernels.SELF
        elif query is key:
            both, last = kernel[:, : 2 * width], kernel[:, 2 * width :]
            arrays, parts = (project(query, both), project(value, last)), kernels.SHARED_KEY
        elif key is value:
            arrays, parts = (project(query, first), project(key, second)), kernels.SHARED_VALUE
        else:
            matrices = jnp.split(kernel, 3, axis=1)
            arrays = tuple(map(project, (query, key, value), matrices))
            parts = kernels.SEPARATE
        mixed = kept(fused(arrays, parts, self.heads), "attention", lead)
        start = self.start.residual(width, self.depth)
        out = RowsOut(start, self.out_bias, self.dtype, name="out")(mixed)
        return out.reshape(query.shape)
