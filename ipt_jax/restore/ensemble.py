"""The eight flips and transpositions of the self-ensemble (x8, Lim et al., EDSR, CVPRW 2017)."""

from __future__ import annotations

import numpy as np

# (flipped upside down, mirrored, transposed), applied in this order.
Transform = tuple[bool, bool, bool]

PLAIN: tuple[Transform, ...] = ((False, False, False),)

EIGHT: tuple[Transform, ...] = tuple(
    (f, m, t) for f in (False, True) for m in (False, True) for t in (False, True)
)


def transformed(image: np.ndarray, how: Transform) -> np.ndarray:
    """Returns a view of an image `[H, W, C]`: `[H, W, C]`, or `[W, H, C]` where transposed."""
    upside_down, mirrored, transposed = how
    image = image[::-1] if upside_down else image
    image = image[:, ::-1] if mirrored else image
    return image.swapaxes(0, 1) if transposed else image


def undone(image: np.ndarray, how: Transform) -> np.ndarray:
    """Returns the inverse of `transformed`, as a view."""
    upside_down, mirrored, transposed = how
    image = image.swapaxes(0, 1) if transposed else image
    return transformed(image, (upside_down, mirrored, False))
