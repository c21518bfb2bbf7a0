"""LayerNorm, computed in float32."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from ipt_jax.model.dense import Array, Dtype, by_rows


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def row_norm(x: Array, scale: Array, bias: Array, eps: float) -> Array:
    """Returns LayerNorm over the last axis of `[R, D]`, computed in float32, in the dtype of `x`.

    The backward pass keeps `x` alone and computes the statistics again. Automatic differentiation
    would keep float32 arrays of the size of `x`.
    """
    normed, _ = _normed(x, eps)
    return (normed * scale + bias).astype(x.dtype)


def _normed(x: Array, eps: float) -> tuple[Array, Array]:
    """Returns x without its mean and with variance 1, and the reciprocal standard deviation."""
    x = x.astype(jnp.float32)
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    deviation = jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + eps)
    return centred * deviation, deviation


def _row_norm_forward(
    x: Array, scale: Array, bias: Array, eps: float
) -> tuple[Array, tuple[Array, Array]]:
    return row_norm(x, scale, bias, eps), (x, scale)


def _row_norm_backward(
    eps: float, kept: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array, Array]:
    x, scale = kept
    normed, deviation = _normed(x, eps)
    g = gradient.astype(jnp.float32)
    scaled = g * scale
    along = jnp.mean(scaled * normed, axis=-1, keepdims=True)
    dx = deviation * (scaled - jnp.mean(scaled, axis=-1, keepdims=True) - normed * along)
    return dx.astype(x.dtype), jnp.sum(g * normed, axis=0), jnp.sum(g, axis=0)


row_norm.defvjp(_row_norm_forward, _row_norm_backward)


class RowNorm(nn.Module):
    """LayerNorm over the last axis with a backward pass of its own; parameters of nn.LayerNorm."""

    eps: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32)
        return by_rows(lambda rows: row_norm(rows, scale, bias, self.eps), x)


class LayerNorm(nn.Module):
    """LayerNorm over the last axis, computed in float32 and returned in `dtype`.

    With `by_hand`, the backward pass is that of `RowNorm`, for TPUs.
    """

    dtype: Dtype
    eps: float = 1e-5
    by_hand: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.by_hand:
            return RowNorm(self.eps, name="norm")(x)
        norm = nn.LayerNorm(
            epsilon=self.eps, dtype=jnp.float32, use_fast_variance=False, name="norm"
        )
        # Without the barrier, XLA on a CPU recomputes the norm inside each product that reads it,
        # and its gradients too.
        return jax.lax.optimization_barrier(by_rows(norm, x).astype(self.dtype))
