"""Bicubic resizing by an integer factor, with the same bits as MATLAB's `imresize`.

The weights are computed as fractions and applied as integers, so that no rounding depends on the
order of a sum. The filter is applied to blocks of outputs as one matrix product each.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import floor, lcm

import cv2
import numpy as np

# Outputs of a block, in units of the ratio's numerator.
_BLOCK = 8


def bicubic(image: np.ndarray, scale: int) -> np.ndarray:
    """Reduces an image with the same bits as MATLAB's ``imresize(image, 1/scale)``.

    The kernel is Keys' cubic with a = -1/2 ("Cubic convolution interpolation for digital image
    processing", 1981), stretched by ``scale`` against aliasing. The border is symmetric. Height is
    reduced before width, and each result is rounded half up to uint8.

    Args:
      image: uint8 ``[H, W, C]`` or ``[H, W]``.
      scale: an integer, 2 or more.

    Returns:
      uint8 ``[H / scale, W / scale, C]`` (or without C).

    Raises:
      ValueError: the image is not uint8 or not 2- or 3-dimensional, the scale is below 2, or H or
        W is not a multiple of it.
    """
    _check_image(image, scale)
    height, width = image.shape[:2]
    if height % scale or width % scale:
        raise ValueError(
            f"bicubic: an image of {height}x{width} (HxW) cannot be reduced by {scale}: both must "
            f"be multiples of it. Crop it first: image[:{height - height % scale}, "
            f":{width - width % scale}]."
        )
    return _resize(image, Fraction(1, scale))


def bicubic_up(image: np.ndarray, scale: int) -> np.ndarray:
    """Enlarges an image with the same bits as MATLAB's ``imresize(image, scale)``.

    Kernel, border, order and rounding are those of :func:`bicubic`.

    Args:
      image: uint8 ``[H, W, C]`` or ``[H, W]``.
      scale: an integer, 2 or more.

    Returns:
      uint8 ``[H * scale, W * scale, C]`` (or without C).

    Raises:
      ValueError: the image is not uint8 or not 2- or 3-dimensional, or the scale is below 2.
    """
    _check_image(image, scale)
    return _resize(image, Fraction(scale))


def check_scale(scale: int) -> None:
    """Raises ValueError unless the scale is an integer of at least 2."""
    if isinstance(scale, bool) or not isinstance(scale, (int, np.integer)) or scale < 2:
        raise ValueError(f"bicubic: the scale must be an integer, 2 or more, not {scale!r}.")


def _check_image(image: np.ndarray, scale: int) -> None:
    check_scale(scale)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        given = getattr(image, "dtype", type(image).__name__)
        raise ValueError(f"bicubic: needs a uint8 image, not {given}.")
    if image.ndim not in (2, 3) or not image.size:
        raise ValueError(
            f"bicubic: needs an image [H, W, C] or [H, W], not one of shape {image.shape}."
        )


def _keys(x: Fraction) -> Fraction:
    """Keys' cubic kernel with a = -1/2."""
    x = abs(x)
    if x < 1:
        return Fraction(3, 2) * x**3 - Fraction(5, 2) * x**2 + 1
    if x < 2:
        return -Fraction(1, 2) * x**3 + Fraction(5, 2) * x**2 - 4 * x + 2
    return Fraction(0)


@dataclass(frozen=True)
class _Filter:
    """The weights of one block of outputs; all blocks have the same.

    Attributes:
      weights: ``[outputs, inputs]``, integers stored as floats.
      denominator: the true weights are ``weights / denominator``.
      first: input position of the first column for the first block.
      step: distance in inputs from one block to the next.
    """

    weights: np.ndarray
    denominator: int
    first: int
    step: int


@lru_cache(maxsize=32)
def _filter(ratio: Fraction) -> _Filter:
    stretch = max(Fraction(1), 1 / ratio)
    outputs = _BLOCK * ratio.numerator
    centres = [(j + Fraction(1, 2)) / ratio - Fraction(1, 2) for j in range(outputs)]
    first = floor(centres[0] - 2 * stretch) + 1
    last = -floor(-(centres[-1] + 2 * stretch)) - 1
    exact = [[_keys((i - c) / stretch) / stretch for i in range(first, last + 1)] for c in centres]
    # Twice the common denominator, so that its half is an integer too.
    denominator = 2 * lcm(*(w.denominator for row in exact for w in row))
    integers = [[int(w * denominator) for w in row] for row in exact]
    # Sums of integers below 2^24 are exact in float32 in any order; large scales need float64.
    largest = 255 * max(sum(abs(w) for w in row) for row in integers) + denominator
    weights = np.array(integers, np.float32 if largest < 2**24 else np.float64)
    weights.setflags(write=False)
    return _Filter(weights, denominator, first, _BLOCK * ratio.denominator)


@lru_cache(maxsize=256)
def _rows_needed(size: int, ratio: Fraction) -> tuple[int, int, np.ndarray]:
    """Returns the numbers of outputs and blocks, and the (mirrored) rows that the blocks read."""
    kernel = _filter(ratio)
    outputs = int(size * ratio)
    blocks = -(-outputs // len(kernel.weights))
    rows = kernel.first + np.arange((blocks - 1) * kernel.step + kernel.weights.shape[1])
    rows %= 2 * size
    rows = np.where(rows < size, rows, 2 * size - 1 - rows)
    rows.setflags(write=False)
    return outputs, blocks, rows


def _resize_height(image: np.ndarray, ratio: Fraction) -> np.ndarray:
    """uint8 ``[H, ...]`` -> uint8 ``[H * ratio, ...]``, C-contiguous."""
    kernel = _filter(ratio)
    outputs, blocks, rows = _rows_needed(image.shape[0], ratio)
    taken = image.take(rows, axis=0).reshape(len(rows), -1).astype(kernel.weights.dtype)
    row_bytes, item_bytes = taken.strides
    # A view of the rows of each block; neighbouring blocks overlap.
    windows: np.ndarray = np.ndarray(
        (blocks, kernel.weights.shape[1], taken.shape[1]),
        taken.dtype,
        buffer=taken,
        strides=(kernel.step * row_bytes, row_bytes, item_bytes),
    )
    result = (kernel.weights @ windows).reshape(-1, taken.shape[1])[:outputs]
    # The cast below truncates, so adding one half rounds half up.
    result += kernel.denominator // 2
    result /= kernel.denominator
    np.clip(result, 0, 255, out=result)
    return result.astype(np.uint8).reshape(outputs, *image.shape[1:])


def _resize(image: np.ndarray, ratio: Fraction) -> np.ndarray:
    turned = _transpose(_resize_height(image, ratio))
    return _transpose(_resize_height(turned, ratio))


def _transpose(image: np.ndarray) -> np.ndarray:
    # cv2.transpose is several times as fast as numpy for three channels.
    if image.ndim == 3 and image.shape[2] == 3:
        return cv2.transpose(image)
    return np.ascontiguousarray(image.swapaxes(0, 1))
