"""Images for tests of degradations."""

from __future__ import annotations

import cv2
import numpy as np


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """Returns smooth noise with sharp edges in it, uint8 `[height, width, 3]`."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(
        rng.integers(0, 256, (9, 9, 3), dtype=np.uint8),
        (width, height),
        interpolation=cv2.INTER_CUBIC,
    )
    image[height // 3 :, width // 2 :] = 255 - image[height // 3 :, width // 2 :]
    return image
