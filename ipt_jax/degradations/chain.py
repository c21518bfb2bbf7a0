"""JPEG compression, chains of and choices between degradations, and pairs that need none, as
:mod:`ipt_jax.images.resize`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, lcm, prod
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Chain:
    """Degradations one after another, such as blur, down-scaling, noise, JPEG: uint8 ``[sH, sW,
    3]`` -> ``[H, W, 3]``.

    Between two of them the picture is rounded to uint8, as one that is stored. The result is that
    of the last one.

    Raises:
      ValueError: when made with no steps.
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
        # Pixels beside the crop, of what a step gives; from the last step back to hq
        needed = 0
        for step in reversed(self.steps):
            # A block is right only where all of its pixels are, so a step on a grid reaches that
            # much further.
            needed = (needed + step.margin + getattr(step, "grid", 1) - 1) * step.scale
        return -(-needed // self.scale)

    @property
    def grid(self) -> int:
        """Spacing in lq pixels of places from which every step's grid begins anew."""
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
    """One of several degradations, drawn for each crop: uint8 ``[sH, sW, 3]`` -> ``[H, W, 3]``.

    ``share`` gives each one's share of the crops; all alike if it is empty. The result is uint8 if
    all of them give uint8, else float32 in 0..255.

    Raises:
      ValueError: when made with nothing to choose from, different scales, or shares that do not
        fit.
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
        """Spacing in lq pixels of places from which every choice's grid begins anew."""
        return lcm(*(getattr(choice, "grid", 1) for choice in self.choices))

    def __call__(self, hq: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        chosen = self.choices[int(rng.choice(len(self.choices), p=self.share or None))]
        lq = chosen(hq, rng)
        return lq if self.rounded else lq.astype(np.float32)
