"""Degradations: from a clean picture to the network's input.

Pictures are RGB, ``[H, W, 3]``, in 0..255. A degradation is a small frozen dataclass that is called as
``degrade(hq, rng) -> lq`` and is a pure function of the uint8 picture and the ``numpy.random.Generator``. It
has

- ``scale``: ``hq`` is ``scale`` times as high and as wide as ``lq``;
- ``margin``: how many lq pixels a crop needs on every side, as far as the picture goes, so that the degraded
  and cut crop is what a crop of the whole degraded picture would be;
- ``rounded``: True where ``lq`` is uint8, False where it is float32 in 0..255 and not rounded.

- ``grid``, where it has one: the spacing in lq pixels of places that are treated alike (JPEG's blocks).

Rain has a file of its own, :mod:`ipt_jax.degradations.rain`; its names can be imported from here. Blur is in ``blur.py``, JPEG and
chains of degradations are in ``chain.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import floor, lcm
from typing import ClassVar

import cv2
import numpy as np

from ipt_jax.degradations.rain import Rain, RainFolder, rain_layer

__all__ = ["Bicubic", "Noise", "Rain", "RainFolder", "bicubic", "bicubic_up", "rain_layer"]

_BLOCK = 8


def bicubic(image: np.ndarray, scale: int) -> np.ndarray:
    """Reduces a picture as MATLAB's ``imresize(image, 1/scale)`` does, to the bit.

    Keys' cubic with a = -1/2 ("Cubic convolution interpolation for digital image processing", 1981),
    stretched by ``scale`` against aliasing; symmetric border; height before width, rounded half up to uint8
    after each.

    Args:
      image: uint8 ``[H, W, C]`` or ``[H, W]``.
      scale: an integer, 2 or more.

    Returns:
      uint8 ``[H / scale, W / scale, C]`` (or without C).

    Raises:
      ValueError: not uint8, not a picture, a scale below 2, or H or W not a multiple of ``scale``.
    """
    _check(image, scale)
    height, width = image.shape[:2]
    if height % scale or width % scale:
        raise ValueError(
            f"bicubic: a picture of {height}x{width} (HxW) cannot be reduced by {scale}: both must be "
            f"multiples of it. Crop it first: image[:{height - height % scale}, :{width - width % scale}]."
        )
    return _resize(image, Fraction(1, scale))


def bicubic_up(image: np.ndarray, scale: int) -> np.ndarray:
    """Enlarges a picture as MATLAB's ``imresize(image, scale)`` does; see :func:`bicubic`.

    Args:
      image: uint8 ``[H, W, C]`` or ``[H, W]``.
      scale: an integer, 2 or more.

    Returns:
      uint8 ``[H * scale, W * scale, C]`` (or without C).

    Raises:
      ValueError: not uint8, not a picture, or a scale below 2.
    """
    _check(image, scale)
    return _resize(image, Fraction(scale))


@dataclass(frozen=True)
class Bicubic:
    """Reduction by an integer factor, as MATLAB's imresize: uint8 ``[sH, sW, 3]`` -> uint8 ``[H, W, 3]``.

    The generator is not used and may be None. Raises ValueError as :func:`bicubic` does.
    """

    scale: int
    margin: ClassVar[int] = 2
    rounded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def __call__(self, hq: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        return bicubic(hq, self.scale)


Range = tuple[float, float]


def range_of(value: float | Sequence[float], what: str, low: float, high: float) -> float | Range:
    """A number, or a range (first, last), in low..high; a list becomes a tuple.

    Raises:
      ValueError: anything else; `what` names it.
    """
    span = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    numbers = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in span)
    if len(span) != 2 or not numbers or not low <= span[0] <= span[1] <= high or span[1] == float("inf"):
        raise ValueError(f"{what} must be a number or a range [first, last] in {low:g} to {high:g}, not {value!r}.")
    return value if isinstance(value, (int, float)) else (span[0], span[1])


def drawn(value: float | Range, rng: np.random.Generator) -> float:
    """The number, or one drawn uniformly from the range; a fixed number takes nothing from the generator."""
    return float(rng.uniform(*value)) if isinstance(value, tuple) else value


def highest(value: float | Range) -> float:
    """The largest number that `drawn` gives."""
    return value[1] if isinstance(value, tuple) else value


def share_of(value: float, what: str) -> float:
    """A share, 0 to 1, as a float; True and False are 1 and 0.

    Raises:
      ValueError: anything else; `what` names it.
    """
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{what} must be a share, 0 to 1, or true or false, not {value!r}.")
    return float(value)


def happens(share: float, rng: np.random.Generator) -> bool:
    """True in that share of all cases; the certain cases, 0 and 1, take nothing from the generator."""
    return share == 1 or (share > 0 and float(rng.random()) < share)


@dataclass(frozen=True)
class Noise:
    """White Gaussian noise: uint8 ``[H, W, 3]`` -> float32 of the same shape in 0..255, not rounded.

    R, G and B get independent noise.

    Attributes:
      sigma: standard deviation in grey levels (0..255), or a range from which each crop draws its own (blind denoising).
      clipped: share of crops whose noisy values are clipped to 0..255. IPT's published code clips (1, the default); the
        published numbers of CBM3D, DnCNN and FFDNet are on noise that is not clipped (0).
      clean: share of crops that get no noise at all, so that the network learns to leave clean pictures alone.

    Raises:
      ValueError: when made with a sigma below 0, or a share that is not in 0 to 1.
    """

    sigma: float | Range
    clipped: float = 1.0
    clean: float = 0.0
    scale: ClassVar[int] = 1
    margin: ClassVar[int] = 0
    rounded: ClassVar[bool] = False

    def __post_init__(self) -> None:
        span = range_of(self.sigma, "Noise: sigma, in grey levels (0..255),", 0, float("inf"))
        object.__setattr__(self, "sigma", span)
        for name in ("clipped", "clean"):
            object.__setattr__(self, name, share_of(getattr(self, name), f"Noise: {name}"))

    def __call__(self, hq: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if happens(self.clean, rng):
            return hq.astype(np.float32)
        sigma = drawn(self.sigma, rng)
        clipped = happens(self.clipped, rng)
        lq = rng.standard_normal(hq.shape, dtype=np.float32)
        lq *= np.float32(sigma)
        lq += hq
        return np.clip(lq, 0, 255, out=lq) if clipped else lq


def _check_scale(scale: int) -> None:
    if isinstance(scale, bool) or not isinstance(scale, (int, np.integer)) or scale < 2:
        raise ValueError(f"bicubic: the scale must be an integer, 2 or more, not {scale!r}.")


def _check(image: np.ndarray, scale: int) -> None:
    _check_scale(scale)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        given = getattr(image, "dtype", type(image).__name__)
        raise ValueError(f"bicubic: needs a uint8 picture, not {given}.")
    if image.ndim not in (2, 3) or not image.size:
        raise ValueError(f"bicubic: needs a picture [H, W, C] or [H, W], not one of shape {image.shape}.")


def _keys(x: Fraction) -> Fraction:
    x = abs(x)
    if x < 1:
        return Fraction(3, 2) * x**3 - Fraction(5, 2) * x**2 + 1
    if x < 2:
        return -Fraction(1, 2) * x**3 + Fraction(5, 2) * x**2 - 4 * x + 2
    return Fraction(0)


@dataclass(frozen=True)
class _Filter:
    """Weights of one block of outputs over the inputs it sees; the next block's are the same, ``step`` on."""

    weights: np.ndarray  # [outputs, inputs], integers held as floats
    denominator: int
    first: int  # input position of the first column, for the block at 0
    step: int


@lru_cache(maxsize=32)
def _filter(ratio: Fraction) -> _Filter:
    stretch = max(Fraction(1), 1 / ratio)
    outputs = _BLOCK * ratio.numerator
    centres = [(j + Fraction(1, 2)) / ratio - Fraction(1, 2) for j in range(outputs)]
    first = floor(centres[0] - 2 * stretch) + 1
    last = -floor(-(centres[-1] + 2 * stretch)) - 1
    exact = [[_keys((i - c) / stretch) / stretch for i in range(first, last + 1)] for c in centres]
    denominator = 2 * lcm(*(w.denominator for row in exact for w in row))  # even: its half is exact too
    integers = [[int(w * denominator) for w in row] for row in exact]
    # Integers below 2^24 are exact in float32 in whatever order they are summed; big scales need float64.
    largest = 255 * max(sum(abs(w) for w in row) for row in integers) + denominator
    weights = np.array(integers, np.float32 if largest < 2**24 else np.float64)
    weights.setflags(write=False)
    return _Filter(weights, denominator, first, _BLOCK * ratio.denominator)


@lru_cache(maxsize=256)
def _rows_needed(size: int, ratio: Fraction) -> tuple[int, int, np.ndarray]:
    """Number of outputs, of blocks, and the place (mirrored) of every row that the blocks see."""
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
    windows: np.ndarray = np.ndarray(  # a view in which neighbouring blocks overlap
        (blocks, kernel.weights.shape[1], taken.shape[1]),
        taken.dtype,
        buffer=taken,
        strides=(kernel.step * row_bytes, row_bytes, item_bytes),
    )
    result = (kernel.weights @ windows).reshape(-1, taken.shape[1])[:outputs]
    result += kernel.denominator // 2  # the cast below cuts, so this rounds half up
    result /= kernel.denominator
    np.clip(result, 0, 255, out=result)
    return result.astype(np.uint8).reshape(outputs, *image.shape[1:])


def _resize(image: np.ndarray, ratio: Fraction) -> np.ndarray:
    turned = _transpose(_resize_height(image, ratio))
    return _transpose(_resize_height(turned, ratio))


def _transpose(image: np.ndarray) -> np.ndarray:
    if image.ndim == 3 and image.shape[2] == 3:  # several times as fast as numpy here
        return cv2.transpose(image)
    return np.ascontiguousarray(image.swapaxes(0, 1))
