"""The eight flips and transpositions."""

from __future__ import annotations

import numpy as np

Transform = tuple[bool, bool, bool]

PLAIN: tuple[Transform, ...] = ((False, False, False),)

# The x8 self-ensemble: upside down, mirrored, transposed, in all combinations.
EIGHT: tuple[Transform, ...] = tuple(
    (f, m, t) for f in (False, True) for m in (False, True) for t in (False, True)
)


def transformed(image: np.ndarray, how: Transform) -> np.ndarray:
    """A picture `[H, W, C]` upside down, mirrored, transposed, as asked, in this order."""
    upside_down, mirrored, transposed = how
    image = image[::-1] if upside_down else image
    image = image[:, ::-1] if mirrored else image
    return image.swapaxes(0, 1) if transposed else image


def undone(image: np.ndarray, how: Transform) -> np.ndarray:
    """The inverse of `transformed`."""
    upside_down, mirrored, transposed = how
    image = image.swapaxes(0, 1) if transposed else image
    return transformed(image, (upside_down, mirrored, False))
