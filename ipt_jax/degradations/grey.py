"""Degradations of grey images: noise that is the same in R, G and B.

Published tables for grey sets (Set12, BSD68) are of grey noise. Noise that is drawn for each
channel would give such images colours, and be weaker on their luma.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from ipt_jax.degradations.chain import Chain, OneOf
from ipt_jax.degradations.noise import Noise


@dataclasses.dataclass(frozen=True)
class GreyNoise:
    """One draw of noise for all channels: uint8 ``[H, W, 3]`` -> float32 of the same shape.

    Attributes:
      noise: gives the strength, and whether the result is clipped.
    """

    noise: Noise
    scale: ClassVar[int] = 1
    margin: ClassVar[int] = 0
    rounded: ClassVar[bool] = False

    def __call__(self, hq: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return np.repeat(self.noise(np.ascontiguousarray(hq[..., :1]), rng), 3, axis=2)


def is_grey(image: np.ndarray) -> bool:
    """Tells whether R, G and B of an image `[H, W, 3]` are equal everywhere."""
    return bool((image[..., :1] == image[..., 1:]).all())


def has_noise(degradation: Any) -> bool:
    """Tells whether a degradation is noise, or is made of others of which one is noise."""
    return isinstance(degradation, Noise) or any(map(has_noise, _parts(degradation)))


def with_grey_noise(degradation: Any) -> Any:
    """Returns a degradation with one draw of noise for all channels; without noise, itself."""
    if isinstance(degradation, Noise):
        return GreyNoise(degradation)
    if not has_noise(degradation):
        return degradation
    parts = tuple(with_grey_noise(part) for part in _parts(degradation))
    name = "steps" if isinstance(degradation, Chain) else "choices"
    return dataclasses.replace(degradation, **{name: parts})


def _parts(degradation: Any) -> tuple[Any, ...]:
    if isinstance(degradation, Chain):
        return degradation.steps
    return degradation.choices if isinstance(degradation, OneOf) else ()
