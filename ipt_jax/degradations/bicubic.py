"""Bicubic reduction by an integer factor: the degradation of super-resolution.

The resizing itself is in :mod:`ipt_jax.images.resize`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ipt_jax.images.resize import bicubic, check_scale


@dataclass(frozen=True)
class Bicubic:
    """Bicubic reduction with MATLAB's bits: uint8 ``[sH, sW, 3]`` -> uint8 ``[H, W, 3]``.

    The generator is not used and may be None. Calling it raises ValueError as :func:`bicubic` does.

    Attributes:
      scale: the factor, an integer of at least 2.

    Raises:
      ValueError: when made with another scale.
    """

    scale: int
    margin: ClassVar[int] = 2
    rounded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_scale(self.scale)

    def __call__(self, hq: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        return bicubic(hq, self.scale)
