"""JPEG compression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np

from ipt_jax.degradations.base import Range, drawn, happens, range_of, share_of


@dataclass(frozen=True)
class Jpeg:
    """JPEG compression, 4:2:0, and back: uint8 ``[H, W, 3]`` -> uint8.

    ``quality`` is libjpeg's, 1 to 100, or a range from which each crop draws its own (a whole
    number). ``clean`` is the share of crops that are not compressed, so that the network learns to
    leave clean pictures alone.

    Blocks of 16 pixels (8x8 of halved colour) lie on a grid that begins at the whole picture's
    corner. The pipeline cuts regions on that grid (``grid``), so that a crop shows the blocks where
    they are in the whole compressed picture; and since the grid belongs to the picture as it is
    stored, flips come after the compression.

    Raises:
      ValueError: when made with a quality that is not in 1 to 100, or a share that is not in 0 to
        1.
    """

    quality: float | Range
    clean: float = 0.0
    scale: ClassVar[int] = 1
    # Colour is enlarged by interpolation, over the blocks' borders
    margin: ClassVar[int] = 2
    rounded: ClassVar[bool] = True
    grid: ClassVar[int] = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "quality", range_of(self.quality, "Jpeg: quality", 1, 100))
        object.__setattr__(self, "clean", share_of(self.clean, "Jpeg: clean"))

    def __call__(self, hq: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if happens(self.clean, rng):
            return hq.copy()
        settings = [
            cv2.IMWRITE_JPEG_QUALITY,
            round(drawn(self.quality, rng)),
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
        ]
        done, data = cv2.imencode(".jpg", hq[..., ::-1], settings)
        if not done:
            raise ValueError(
                f"Jpeg: a picture of {hq.shape[1]}x{hq.shape[0]} cannot be compressed."
            )
        back: Any = cv2.imdecode(data, cv2.IMREAD_COLOR)
        return np.ascontiguousarray(back[..., ::-1])
