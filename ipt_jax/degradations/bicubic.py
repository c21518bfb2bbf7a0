"""Reduction by an integer factor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ipt_jax.images.resize import bicubic, check_scale


@dataclass(frozen=True)
class Bicubic:
    """Reduction by an integer factor, as MATLAB's imresize: uint8 ``[sH, sW, 3]`` -> uint8 ``[H, W,
    3]``.

    The generator is not used and may be None. Raises ValueError as :func:`bicubic` does.
    """

    scale: int
    margin: ClassVar[int] = 2
    rounded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_scale(self.scale)

    def __call__(self, hq: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        return bicubic(hq, self.scale)
