"""Linear layers, and the precision of their products."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array
Dtype = Any


def precision(dtype: Dtype) -> str | None:
    """Returns the precision of matrix products.

    float32 products are exact on TPUs and GPUs too, where the default is a lower precision.
    """
    return "highest" if jnp.dtype(dtype) == jnp.float32 else None


def by_rows(layer: Callable[[Array], Array], x: Array) -> Array:
    """Applies a layer of the last axis to `x`, with all other axes reshaped into one.

    On a CPU, XLA computes the gradients of products of more than two axes by transposing the
    arrays, which costs as much as the product.
    """
    y = layer(x.reshape(-1, x.shape[-1]))
    return y.reshape(*x.shape[:-1], y.shape[-1])


def dense(
    out: int, kernel_init: Any, bias_init: Any, dtype: Dtype, name: str, use_bias: bool = True
) -> Callable[[Array], Array]:
    """Returns a linear layer of the last axis."""
    layer = nn.Dense(
        out,
        use_bias=use_bias,
        dtype=dtype,
        precision=precision(dtype),
        kernel_init=kernel_init,
        bias_init=bias_init,
        name=name,
    )
    return functools.partial(by_rows, layer)


class RowsOut(nn.Module):
    """A linear layer of features on rows: `[D, R]` -> `[R, D]`; parameters of nn.Dense."""

    kernel_init: Any
    use_bias: bool
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[0]
        kernel = self.param("kernel", self.kernel_init, (width, width), jnp.float32)
        y = jax.lax.dot_general(
            x,
            kernel.astype(self.dtype),
            (((0,), (0,)), ((), ())),
            precision=precision(self.dtype),
        )
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (width,), jnp.float32).astype(self.dtype)
        return y
