"""JPEG compression, degradations one after another, and pairs that need none, as :mod:`ipt_jax.data.degrade`."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, lcm, prod
from typing import Any, ClassVar

import cv2
import numpy as np

from ipt_jax.data.checks import DataError
from ipt_jax.data.degrade import Range, drawn, range_of


@dataclass(frozen=True)
class Jpeg:
    """JPEG compression, 4:2:0, and back: uint8 ``[H, W, 3]`` -> uint8.

    ``quality`` is libjpeg's, 1 to 100, or a range from which each crop draws its own (a whole number).

    Blocks of 16 pixels (8x8 of halved colour) lie on a grid that begins at the whole picture's corner. The pipeline cuts
    regions on that grid (``grid``), so that a crop shows the blocks where they are in the whole compressed picture; and
    since the grid belongs to the picture as it is stored, flips come after the compression.

    Raises:
      ValueError: when made with a quality that is not in 1 to 100.
    """

    quality: float | Range
    scale: ClassVar[int] = 1
    margin: ClassVar[int] = 2  # colour is enlarged by interpolation, over the blocks' borders
    rounded: ClassVar[bool] = True
    grid: ClassVar[int] = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "quality", range_of(self.quality, "Jpeg: quality", 1, 100))

    def __call__(self, hq: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        settings = [cv2.IMWRITE_JPEG_QUALITY, round(drawn(self.quality, rng)),
                    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]  # fmt: skip
        done, data = cv2.imencode(".jpg", hq[..., ::-1], settings)
        if not done:
            raise ValueError(f"Jpeg: a picture of {hq.shape[1]}x{hq.shape[0]} cannot be compressed.")
        back: Any = cv2.imdecode(data, cv2.IMREAD_COLOR)
        return np.ascontiguousarray(back[..., ::-1])


@dataclass(frozen=True)
class Chain:
    """Degradations one after another, such as blur, down-scaling, noise, JPEG: uint8 ``[sH, sW, 3]`` -> ``[H, W, 3]``.

    Between two of them the picture is rounded to uint8, as one that is stored. The result is that of the last one.

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
        needed = 0  # pixels beside the crop, of what a step gives; from the last step back to hq
        for step in reversed(self.steps):
            # A block is right only where all of its pixels are, so a step on a grid reaches that much further.
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
class Paired:
    """The degradation of a task whose pictures come in pairs, such as deblurring. Scale 0 is to be found from them."""

    scale: int = 0
    margin: ClassVar[int] = 0
    rounded: ClassVar[bool] = True
    paired: ClassVar[bool] = True

    def __call__(self, hq: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        raise DataError("this task has no degradation to make inputs with: it needs pairs (data.source=pairs, a set of pairs)")
