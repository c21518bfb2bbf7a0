"""How parameters start: torch-style, as the authors' code does, or as the identity.

A start is a set of initialisers, one for each role a parameter plays. The architecture is the same
for both, so the weights stay exchangeable.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Initializer = Callable[..., jax.Array]

# Features that carry R, G, B through the network in the identity start
COLOURS = 3


def uniform(bound: float) -> Initializer:
    """Uniform in [-bound, bound]."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def changed(base: Initializer, change: Callable[[jax.Array], jax.Array]) -> Initializer:
    """`base`, then `change`."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return change(base(key, shape, dtype))

    return init


def linear_weights(scale: int) -> np.ndarray:
    """Three taps of linear interpolation for each sub-pixel of an enlargement, `[scale, 3]`, pixel
    centres aligned.
    """
    offsets = (np.arange(scale) + 0.5) / scale - 0.5
    return np.maximum(0, 1 - np.abs(offsets[:, None] - np.arange(-1, 2)[None, :]))


@dataclasses.dataclass(frozen=True)
class TorchStart:
    """PyTorch's defaults as the authors' code leaves them: uniform +-1/sqrt(fan_in), embeddings
    N(0, 1).
    """

    # The authors deep-copy one layer, so a stack's layers start equal
    same_layers: bool = True

    def kernel(self, fan_in: int) -> Initializer:
        return uniform(fan_in**-0.5)

    bias = kernel

    def attention_in(self, width: int, decoder: bool) -> Initializer:
        # Kaiming uniform with a = sqrt 5 in the encoder, Xavier uniform over [3 width, width] in
        # the decoder.
        return uniform((6 / (4 * width)) ** 0.5 if decoder else width**-0.5)

    def residual(self, fan_in: int, depth: int) -> Initializer:
        """The last product of a residual branch in the body."""
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
    """A network that returns its input, bilinearly enlarged for SR, from the first step on.

    Features 0, 1, 2 carry R, G, B: the first convolution copies them, residual branches leave them
      alone or add
    little, the body returns about what it got (so that body + global residual is twice the
    features), the up-sampling interpolates them and the last convolution takes half of each. Every
    other feature starts as in PyTorch, and what starts small is not zero, so that each parameter
    gets a gradient.
    """

    same_layers: bool = False
    # Share of the usual size with which the branches that must not disturb the copy start
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
        # It stays in the tokens, hence in the copy
        return jax.nn.initializers.normal(self.small / 8)

    def embedding(self) -> Initializer:
        return jax.nn.initializers.normal(self.small)

    # [3, 3, 3, features]
    def head_in(self, fan_in: int) -> Initializer:
        copy = self._zero_colours(self.kernel(fan_in))
        return changed(copy, lambda x: x.at[1, 1, :, :COLOURS].set(jnp.eye(COLOURS)))

    def head_in_bias(self, fan_in: int) -> Initializer:
        return self._zero_colours(self.bias(fan_in))

    def head_residual(self, fan_in: int) -> Initializer:
        return self._zero_colours(uniform(0.1 * fan_in**-0.5))

    def head_residual_bias(self, fan_in: int) -> Initializer:
        return self._zero_colours(uniform(0.1 * fan_in**-0.5))

    # [3, 3, features, features * scale^2]
    def upsample(self, fan_in: int, scale: int) -> Initializer:
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

    # [3, 3, features, 3]
    def tail_out(self, fan_in: int) -> Initializer:
        def halve(kernel: jax.Array) -> jax.Array:
            return kernel.at[:, :, :COLOURS].set(0).at[1, 1, :COLOURS].set(0.5 * jnp.eye(COLOURS))

        return changed(uniform(self.small * fan_in**-0.5), halve)

    def tail_out_bias(self, fan_in: int) -> Initializer:
        return jax.nn.initializers.zeros


STARTS: dict[str, TorchStart] = {"torch": TorchStart(), "identity": IdentityStart()}
