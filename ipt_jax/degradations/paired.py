"""The degradation of tasks whose images come in pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ipt_jax.errors import DataError


@dataclass(frozen=True)
class Paired:
    """The degradation of a task whose pictures come in pairs, such as deblurring. Scale 0 is to be
    found from them.
    """

    scale: int = 0
    margin: ClassVar[int] = 0
    rounded: ClassVar[bool] = True
    paired: ClassVar[bool] = True

    def __call__(self, hq: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        raise DataError(
            "this task has no degradation to make inputs with: it needs pairs (data.source=pairs, "
            "a set of pairs)"
        )
