"""Blur: Gaussian, by straight motion, and by kernels from files.

The image is continued by reflection (`cba|abc`), and the result is rounded half up to uint8, as a
blurred photograph is stored. Sums are in float64. A tie is rounded up whatever the order of its
terms, so that a crop has the same bits as the crop of the entire blurred image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, cos, floor, radians, sin
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np

from ipt_jax.degradations.base import Range, drawn, highest, range_of
from ipt_jax.images.files import MAX_BYTES, read_image_file
from ipt_jax.images.formats import LOSSLESS_SUFFIXES
from ipt_jax.storage import check_regular

# The longest side of a kernel in pixels.
LARGEST = 201
# Added before rounding, so that all ties round up. It is far above float64's rounding error, and
# too small to change other pixels but for rare cases.
_TIE = 2.0**-20


def blurred(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlates an image with a kernel.

    Args:
      image: uint8 ``[H, W, 3]``.
      kernel: float64 ``[h, w]`` with odd sides.

    Returns:
      uint8 ``[H, W, 3]``, rounded half up.
    """
    out = cv2.filter2D(image.astype(np.float64), cv2.CV_64F, kernel, borderType=cv2.BORDER_REFLECT)
    return np.clip(np.floor(out + (0.5 + _TIE)), 0, 255).astype(np.uint8)


@lru_cache(maxsize=64)
def gaussian_kernel(sigma: float) -> np.ndarray:
    """Returns a Gaussian kernel ``[n, n]`` with sum 1, cut off at 3 sigma; 0 is the identity."""
    if sigma <= 0:
        return np.ones((1, 1))
    line = cv2.getGaussianKernel(2 * ceil(3 * sigma) + 1, sigma, cv2.CV_64F)
    return line @ line.T


def motion_kernel(length: int, angle: float) -> np.ndarray:
    """Returns the kernel of a straight, even motion, ``[n, n]`` with sum 1.

    It is the mean of `length` points that lie one pixel apart on a line through the centre. Each
    point is distributed bilinearly to the four pixels around it.

    Args:
      length: pixels by which the camera moves during the exposure; 1 is the identity.
      angle: degrees from the horizontal, counter-clockwise.
    """
    radius = ceil((length - 1) / 2)
    kernel = np.zeros((2 * radius + 3, 2 * radius + 3))
    for t in np.arange(length) - (length - 1) / 2:
        x, y = radius + 1 + t * cos(radians(angle)), radius + 1 - t * sin(radians(angle))
        # Rounding puts a point exactly on a pixel that it misses only by the error of sine and
        # cosine.
        x, y = round(x, 9), round(y, 9)
        column, row = floor(x), floor(y)
        right, down = x - column, y - row
        for dy, dx, share in (
            (0, 0, (1 - down) * (1 - right)),
            (0, 1, (1 - down) * right),
            (1, 0, down * (1 - right)),
            (1, 1, down * right),
        ):
            if share:
                kernel[row + dy, column + dx] += share / length
    return kernel


@dataclass(frozen=True)
class GaussianBlur:
    """Gaussian blur: uint8 ``[H, W, 3]`` -> uint8 of the same shape.

    Attributes:
      sigma: standard deviation in pixels, or a range from which each crop draws its own.

    Raises:
      ValueError: when made with a sigma that is not in 0 to 30.
    """

    sigma: float | Range
    scale: ClassVar[int] = 1
    rounded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "sigma", range_of(self.sigma, "GaussianBlur: sigma, in pixels,", 0, 30)
        )

    @property
    def margin(self) -> int:
        return ceil(3 * highest(self.sigma))

    def __call__(self, hq: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return blurred(hq, gaussian_kernel(drawn(self.sigma, rng)))


@dataclass(frozen=True)
class MotionBlur:
    """Blur by a straight, even motion: uint8 ``[H, W, 3]`` -> uint8 of the same shape.

    Attributes:
      length: pixels, or a range from which each crop draws its own (rounded).
      angle: degrees from the horizontal, counter-clockwise, or a range.

    Raises:
      ValueError: when made with a length that is not in 1 to 99, or an angle that is not in -360 to
        360.
    """

    length: float | Range = (5, 25)
    angle: float | Range = (0, 180)
    scale: ClassVar[int] = 1
    rounded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "length", range_of(self.length, "MotionBlur: length, in pixels,", 1, 99)
        )
        object.__setattr__(
            self, "angle", range_of(self.angle, "MotionBlur: angle, in degrees,", -360, 360)
        )

    @property
    def margin(self) -> int:
        return ceil((round(highest(self.length)) - 1) / 2) + 1

    def __call__(self, hq: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        length = round(drawn(self.length, rng))
        return blurred(hq, motion_kernel(length, drawn(self.angle, rng)))


@dataclass(frozen=True)
class KernelBlur:
    """Blur by a kernel from a file: uint8 ``[H, W, 3]`` -> uint8 of the same shape.

    A kernel is a .npy or .txt array or a grey image without lossy compression, ``[h, w]``, not
    negative, with a sum above 0. It is divided by its sum, and an even side is padded with zeros.
    The image is correlated with it; the kernel is not flipped.

    Attributes:
      path: a file, or a folder of files from which each crop draws one.

    Raises:
      ValueError: when first used, if there is no such file or it holds no kernel.
    """

    path: str
    scale: ClassVar[int] = 1
    rounded: ClassVar[bool] = True

    @property
    def margin(self) -> int:
        return max(max(_kernel(file).shape) // 2 for file in _kernel_files(self.path))

    def __call__(self, hq: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        files = _kernel_files(self.path)
        return blurred(hq, _kernel(files[int(rng.integers(len(files))) if len(files) > 1 else 0]))


@lru_cache(maxsize=16)
def _kernel_files(path: str) -> tuple[str, ...]:
    place = Path(path).expanduser()
    if place.is_file():
        return (str(place),)
    suffixes = {".npy", ".txt", *LOSSLESS_SUFFIXES}
    found = (
        sorted(str(f) for f in place.iterdir() if f.suffix.lower() in suffixes)
        if place.is_dir()
        else []
    )
    if not found:
        what = (
            f"holds no kernel ({', '.join(sorted(suffixes))})"
            if place.is_dir()
            else "is neither a file nor a folder"
        )
        raise ValueError(f"KernelBlur: {path!r} {what}.")
    return tuple(found)


@lru_cache(maxsize=256)
def _kernel(file: str) -> np.ndarray:
    suffix = Path(file).suffix.lower()
    try:
        check_regular(file, MAX_BYTES)
        if suffix == ".npy":
            kernel = np.load(file, allow_pickle=False)
        elif suffix == ".txt":
            kernel = np.loadtxt(file, ndmin=2)
        else:
            # OpenCV's imread crashes for a name that is not UTF-8, and imdecode raises for no data.
            data = np.frombuffer(read_image_file(file), np.uint8)
            flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
            picture = cv2.imdecode(data, flags) if data.size else None
            if picture is None:
                raise ValueError("it does not open as an image, .npy or .txt")
            kernel = picture
        kernel = np.asarray(kernel, np.float64)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"KernelBlur: {file} is no kernel: {error}") from None
    wrong = ""
    if kernel.ndim != 2 or not kernel.size:
        wrong = f"it is an array of shape {kernel.shape}, not [h, w]"
    elif max(kernel.shape) > LARGEST:
        wrong = f"it is {kernel.shape[1]}x{kernel.shape[0]}; at most {LARGEST} pixels a side"
    elif not np.isfinite(kernel).all() or (kernel < 0).any():
        wrong = "its weights must be finite and not negative"
    elif not kernel.sum() > 0:
        wrong = "its weights are all zero"
    if wrong:
        raise ValueError(f"KernelBlur: {file} is no kernel: {wrong}.")
    kernel = np.pad(kernel, [(0, 1 - side % 2) for side in kernel.shape])
    kernel /= kernel.sum()
    kernel.setflags(write=False)
    return kernel
