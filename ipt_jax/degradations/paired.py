"""The stand-in degradation of tasks whose degraded images exist already.

Such a task takes its (lq, hq) pairs from :class:`ipt_jax.data.sources.pairs.Pairs` or from a
benchmark set, so nothing has to be degraded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ipt_jax.errors import DataError


@dataclass(frozen=True)
class Paired:
    """The degradation of a task whose images come in pairs; calling it raises DataError.

    Attributes:
      scale: side of hq divided by that of lq; 0 takes it from the pairs.
    """

    scale: int = 0
    margin: ClassVar[int] = 0
    rounded: ClassVar[bool] = True
    paired: ClassVar[bool] = True

    def __call__(self, hq: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        raise DataError(
            "this task has no degradation that could make inputs: it needs pairs "
            "(data.source=pairs, or a benchmark set of pairs)"
        )
