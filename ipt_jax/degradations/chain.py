"""Degradations made of others: sequences (`Chain`) and random choices (`OneOf`).

Both compute scale, margin and grid from their parts, so that a crop still equals the crop of the
entire degraded image.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, lcm, prod
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Chain:
    """Degradations one after another, e.g. blur, reduction, noise and JPEG.

    uint8 ``[sH, sW, 3]`` -> ``[H, W, 3]`` of the last step's dtype. Between two steps the image is
    rounded to uint8, as if it were stored.

    Attributes:
      steps: the degradations in order.

    Raises:
      ValueError: when made without steps.
    """

    steps: tuple[Any, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        if not self.steps:
            raise ValueError("Chain: steps must name at least one degradation.")

    @property
    def scale(self) -> int:
        return prod(step.scale for step in self.steps)

    @property
    def rounded(self) -> bool:
        return bool(self.steps[-1].rounded)

    @property
    def margin(self) -> int:
        """lq pixels that a crop needs on every side, from the last step back to hq."""
        # Pixels beside the crop that are needed of a step's result, and then of its input.
        needed = 0
        for step in reversed(self.steps):
            # A block is correct only if the region holds all of its pixels, so a step with a grid
            # reaches up to `grid - 1` pixels further.
            needed = (needed + step.margin + getattr(step, "grid", 1) - 1) * step.scale
        return -(-needed // self.scale)

    @property
    def grid(self) -> int:
        """Distance in lq pixels of the positions at which the grids of all steps begin."""
        after, spacing = 1, 1
        for step in reversed(self.steps):
            grid = getattr(step, "grid", 1)
            spacing = lcm(spacing, grid // gcd(grid, after))
            after *= step.scale
        return spacing

    def __call__(self, hq: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        picture = hq
        for step in self.steps:
            if picture.dtype != np.uint8:
                picture = np.clip(np.floor(picture + 0.5), 0, 255).astype(np.uint8)
            picture = step(np.ascontiguousarray(picture), rng)
        return picture


@dataclass(frozen=True)
class OneOf:
    """One of several degradations, which each crop draws: uint8 ``[sH, sW, 3]`` -> ``[H, W, 3]``.

    The result is uint8 if all choices give uint8, and float32 otherwise. ``margin`` is the largest
    of the choices, ``grid`` their least common multiple.

    Attributes:
      choices: the degradations; all have the same scale.
      share: each choice's share of the crops, with a sum of 1; empty for equal shares.

    Raises:
      ValueError: when made without choices, with choices of different scales, or with shares that
        do not fit.
    """

    choices: tuple[Any, ...]
    share: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", tuple(self.choices))
        object.__setattr__(self, "share", tuple(self.share))
        if not self.choices:
            raise ValueError("OneOf: choices must name at least one degradation.")
        scales = sorted({choice.scale for choice in self.choices})
        if len(scales) > 1:
            raise ValueError(
                "OneOf: all choices must have one scale, not "
                f"{', '.join(f'x{scale}' for scale in scales)}."
            )
        if self.share and (
            len(self.share) != len(self.choices)
            or min(self.share) < 0
            or abs(sum(self.share) - 1) > 1e-6
        ):
            raise ValueError(
                "OneOf: share must give one share for each choice, with a sum of 1, not "
                f"{self.share!r}."
            )

    @property
    def scale(self) -> int:
        return int(self.choices[0].scale)

    @property
    def rounded(self) -> bool:
        return all(choice.rounded for choice in self.choices)

    @property
    def margin(self) -> int:
        return max(choice.margin for choice in self.choices)

    @property
    def grid(self) -> int:
        """Distance in lq pixels of the positions at which the grids of all choices begin."""
        return lcm(*(getattr(choice, "grid", 1) for choice in self.choices))

    def __call__(self, hq: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        chosen = self.choices[int(rng.choice(len(self.choices), p=self.share or None))]
        lq = chosen(hq, rng)
        return lq if self.rounded else lq.astype(np.float32)
