"""JPEG compression of a fixed or random quality, for removing its artefacts.

The compression is libjpeg's, by way of OpenCV. Its blocks lie on a grid that belongs to the stored
image, which makes JPEG the only basic degradation with a `grid`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np

from ipt_jax.degradations.base import Range, drawn, happens, range_of, share_of


@dataclass(frozen=True)
class Jpeg:
    """JPEG compression (4:2:0) and decompression: uint8 ``[H, W, 3]`` -> uint8 of the same shape.

    Blocks of 16 pixels (8x8 pixels of halved colour) lie on a grid that begins at the corner of
    the image. The pipeline cuts regions on that grid (``grid``), so that a crop has its blocks
    where the entire compressed image has them. Since the grid belongs to the stored image, flips
    come after the compression.

    Attributes:
      quality: libjpeg's quality, 1 to 100, or a range from which each crop draws its own (rounded).
      clean: share of crops that are not compressed, so that the network learns not to change clean
        images.

    Raises:
      ValueError: when made with a quality that is not in 1 to 100, or with a share that is not in
        0 to 1.
    """

    quality: float | Range
    clean: float = 0.0
    scale: ClassVar[int] = 1
    # Decoding interpolates the halved colour across the borders of blocks.
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
                f"Jpeg: an image of {hq.shape[1]}x{hq.shape[0]} pixels cannot be compressed."
            )
        back: Any = cv2.imdecode(data, cv2.IMREAD_COLOR)
        return np.ascontiguousarray(back[..., ::-1])
