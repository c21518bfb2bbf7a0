"""Initialisation: PyTorch's defaults, as in the authors' code, or a network that is the identity.

A start is a set of initialisers, one for each role of a parameter in the network. Both starts have
the same parameters, so weights can be exchanged between them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Initializer = Callable[..., jax.Array]

# The number of features that carry R, G and B through the network in the identity start.
COLOURS = 3


def uniform(bound: float) -> Initializer:
    """Returns an initialiser that is uniform in [-bound, bound]."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def changed(base: Initializer, change: Callable[[jax.Array], jax.Array]) -> Initializer:
    """Returns an initialiser that applies `change` to the values of `base`."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return change(base(key, shape, dtype))

    return init


def linear_weights(scale: int) -> np.ndarray:
    """Returns the weights of linear interpolation, float `[scale, 3]`.

    Row i has the weights of the pixels before, at and after a position, for sub-pixel i of that
    position. Pixel centres are aligned.
    """
    offsets = (np.arange(scale) + 0.5) / scale - 0.5
    return np.maximum(0, 1 - np.abs(offsets[:, None] - np.arange(-1, 2)[None, :]))


@dataclasses.dataclass(frozen=True)
class TorchStart:
    """PyTorch's defaults: uniform in +-1 / sqrt(fan_in), embeddings N(0, 1).

    Attributes:
      same_layers: all layers of a stack start with the same values. The authors' code deep-copies
        one layer.
    """

    same_layers: bool = True

    def kernel(self, fan_in: int) -> Initializer:
        return uniform(fan_in**-0.5)

    bias = kernel

    def attention_in(self, width: int, decoder: bool) -> Initializer:
        # The authors' code has Kaiming uniform with a = sqrt(5) in the encoder, and Xavier uniform
        # over [3 width, width] in the decoder.
        return uniform((6 / (4 * width)) ** 0.5 if decoder else width**-0.5)

    def residual(self, fan_in: int, depth: int) -> Initializer:
        """Returns the initialiser of the last matrix of a residual branch in the body."""
        del depth
        return self.kernel(fan_in)

    def residual_bias(self, fan_in: int) -> Initializer:
        return self.bias(fan_in)

    def linear_encoding(self, fan_in: int) -> Initializer:
        return self.kernel(fan_in)

    linear_encoding_bias = linear_encoding

    def position(self) -> Initializer:
        return jax.nn.initializers.normal(1.0)

    embedding = position

    def head_in(self, fan_in: int) -> Initializer:
        return self.kernel(fan_in)

    def head_in_bias(self, fan_in: int) -> Initializer:
        return self.bias(fan_in)

    def head_residual(self, fan_in: int) -> Initializer:
        return self.kernel(fan_in)

    def head_residual_bias(self, fan_in: int) -> Initializer:
        return self.bias(fan_in)

    def upsample(self, fan_in: int, scale: int) -> Initializer:
        del scale
        return self.kernel(fan_in)

    def upsample_bias(self, fan_in: int, scale: int) -> Initializer:
        del scale
        return self.bias(fan_in)

    def tail_out(self, fan_in: int) -> Initializer:
        return self.kernel(fan_in)

    def tail_out_bias(self, fan_in: int) -> Initializer:
        return self.bias(fan_in)


@dataclasses.dataclass(frozen=True)
class IdentityStart(TorchStart):
    """A network that at first returns its input, bilinearly enlarged for SR.

    Features 0, 1 and 2 carry R, G and B. The first convolution copies them. Residual branches of a
    head leave them unchanged; those of the body add little, so body + global residual is about
    twice the features. The up-sampling interpolates them, and the last convolution takes half of
    each. Other features start as in PyTorch. Small initial values are not zero, so that every
    parameter gets a gradient.

    Attributes:
      same_layers: all layers of a stack start with the same values.
      small: the size of the residual branches' last matrices, relative to PyTorch's.
    """

    same_layers: bool = False
    small: float = 0.02

    def _zero_colours(self, base: Initializer) -> Initializer:
        return changed(base, lambda x: x.at[..., :COLOURS].set(0))

    def residual(self, fan_in: int, depth: int) -> Initializer:
        return uniform(self.small * (fan_in * depth) ** -0.5)

    def residual_bias(self, fan_in: int) -> Initializer:
        return jax.nn.initializers.zeros

    def linear_encoding(self, fan_in: int) -> Initializer:
        return jax.nn.initializers.zeros

    linear_encoding_bias = linear_encoding

    def position(self) -> Initializer:
        # Positions are added to the tokens, so they disturb the copy of the input.
        return jax.nn.initializers.normal(self.small / 8)

    def embedding(self) -> Initializer:
        return jax.nn.initializers.normal(self.small)

    def head_in(self, fan_in: int) -> Initializer:
        # The kernel is [3, 3, 3, features].
        copy = self._zero_colours(self.kernel(fan_in))
        return changed(copy, lambda x: x.at[1, 1, :, :COLOURS].set(jnp.eye(COLOURS)))

    def head_in_bias(self, fan_in: int) -> Initializer:
        return self._zero_colours(self.bias(fan_in))

    def head_residual(self, fan_in: int) -> Initializer:
        return self._zero_colours(uniform(0.1 * fan_in**-0.5))

    def head_residual_bias(self, fan_in: int) -> Initializer:
        return self._zero_colours(uniform(0.1 * fan_in**-0.5))

    def upsample(self, fan_in: int, scale: int) -> Initializer:
        # The kernel is [3, 3, features, features * scale^2].
        taps = linear_weights(scale)

        def interpolate(kernel: jax.Array) -> jax.Array:
            colours = np.zeros((*kernel.shape[:3], COLOURS, scale, scale), np.float32)
            for row in range(scale):
                for column in range(scale):
                    for colour in range(COLOURS):
                        colours[:, :, colour, colour, row, column] = np.outer(
                            taps[row], taps[column]
                        )
            return kernel.at[..., : COLOURS * scale**2].set(colours.reshape(*kernel.shape[:3], -1))

        return changed(self.kernel(fan_in), interpolate)

    def upsample_bias(self, fan_in: int, scale: int) -> Initializer:
        return changed(self.bias(fan_in), lambda x: x.at[: COLOURS * scale**2].set(0))

    def tail_out(self, fan_in: int) -> Initializer:
        # The kernel is [3, 3, features, 3].
        def halve(kernel: jax.Array) -> jax.Array:
            return kernel.at[:, :, :COLOURS].set(0).at[1, 1, :COLOURS].set(0.5 * jnp.eye(COLOURS))

        return changed(uniform(self.small * fan_in**-0.5), halve)

    def tail_out_bias(self, fan_in: int) -> Initializer:
        return jax.nn.initializers.zeros


STARTS: dict[str, TorchStart] = {"torch": TorchStart(), "identity": IdentityStart()}
