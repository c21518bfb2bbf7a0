"""PSNR and SSIM by the conventions of published super-resolution and restoration results.

Images are uint8 ``[H, W, 3]`` (RGB) or ``[H, W]`` (grey: R = G = B), in 0..255. All arithmetic is
in float64.
"""

from __future__ import annotations

import cv2
import numpy as np

# The names of scores in results, logs and configs.
METRICS = ("psnr_y", "psnr_rgb", "ssim_y", "ssim_rgb")

_Y_WEIGHTS = np.array([65.738, 129.057, 25.064]) / 256
# Side of the window of SSIM, and so of the smallest image that has one, in pixels.
WINDOW = 11
_GAUSSIAN = cv2.getGaussianKernel(WINDOW, 1.5, cv2.CV_64F)
_HALF = WINDOW // 2
_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2


def rgb_to_y(image: np.ndarray) -> np.ndarray:
    """Returns the ITU-R BT.601 luma: ``16 + (65.738 R + 129.057 G + 25.064 B) / 256``, not rounded.

    Args:
      image: uint8 or float ``[..., 3]``, RGB in 0..255.

    Returns:
      float64 ``[...]``, 16..235 for inputs in 0..255.

    Raises:
      ValueError: the last axis is not 3.
    """
    image = np.asarray(image)
    if image.ndim < 1 or image.shape[-1] != 3:
        raise ValueError(f"rgb_to_y: the last axis must be R, G, B, not {image.shape}.")
    return image.astype(np.float64) @ _Y_WEIGHTS + 16.0


def psnr(a: np.ndarray, b: np.ndarray, channel: str = "y", border: int = 0) -> float:
    """Returns the peak signal-to-noise ratio in dB: ``10 log10(255^2 / MSE)``.

    Args:
      a, b: uint8 ``[H, W, 3]`` or ``[H, W]``, of the same shape.
      channel: "y" (the luma of both, not rounded) or "rgb" (the MSE over the three channels
        together).
      border: pixels left out on every side: the scale for super-resolution, otherwise 0.

    Returns:
      The ratio in dB; ``inf`` if the images are equal.

    Raises:
      ValueError: an image is not uint8 (round and clip first), the shapes differ, the channel is
        unknown, or the border leaves nothing.
    """
    difference = [x - y for x, y in _planes("psnr", a, b, channel, border)]
    mse = float(np.mean([np.mean(np.square(d)) for d in difference]))
    return float("inf") if mse == 0 else float(10 * np.log10(255.0**2 / mse))


def ssim(a: np.ndarray, b: np.ndarray, channel: str = "y", border: int = 0) -> float:
    """Returns the structural similarity of Wang et al. ("Image quality assessment", TIP 2004).

    The computation is that of their MATLAB code ``ssim_index``: an 11x11 Gaussian window of sigma
    1.5, only where it lies inside the image; K1 = 0.01, K2 = 0.03, L = 255. Large images are not
    reduced beforehand, which is the convention of published tables.

    Args:
      a, b: uint8 ``[H, W, 3]`` or ``[H, W]``, of the same shape.
      channel: "y" (the luma of both, not rounded) or "rgb" (the mean of the three channels' SSIM).
      border: pixels left out on every side: the scale for super-resolution, otherwise 0.

    Returns:
      The similarity, at most 1; 1 for equal images.

    Raises:
      ValueError: as for :func:`psnr`, or fewer than 11x11 pixels are inside the border. The measure
        is not defined there, and a smaller window would give numbers that compare with no others.
    """
    planes = _planes("ssim", a, b, channel, border)
    height, width = planes[0][0].shape
    if min(height, width) < WINDOW:
        raise ValueError(
            f"ssim: its window is 11x11 pixels; inside a border of {border} the image has "
            f"{height}x{width}."
        )
    return float(np.mean([_ssim_plane(x, y) for x, y in planes]))


def _ssim_plane(x: np.ndarray, y: np.ndarray) -> float:
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    xx, yy, xy = mean_x * mean_x, mean_y * mean_y, mean_x * mean_y
    # The formula needs only the sum of the variances: four filters instead of five.
    variances = _window_mean(x * x + y * y) - (xx + yy)
    covariance = _window_mean(x * y) - xy
    score = ((2 * xy + _C1) * (2 * covariance + _C2)) / ((xx + yy + _C1) * (variances + _C2))
    return float(score.mean())


def _window_mean(x: np.ndarray) -> np.ndarray:
    """Returns the weighted means of all windows inside ``[H, W]``: ``[H - 10, W - 10]``."""
    full = cv2.sepFilter2D(x, cv2.CV_64F, _GAUSSIAN, _GAUSSIAN)
    return full[_HALF:-_HALF, _HALF:-_HALF]


def _planes(
    name: str, a: np.ndarray, b: np.ndarray, channel: str, border: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Checks two images and returns the pairs of float64 planes ``[H, W]`` to compare."""
    if channel not in ("y", "rgb"):
        raise ValueError(f'{name}: channel is "y" or "rgb", not {channel!r}.')
    a, b = np.asarray(a), np.asarray(b)
    for image in (a, b):
        if image.dtype != np.uint8:
            raise ValueError(
                f"{name}: images must be uint8, not {image.dtype}: a score is that of the stored "
                "image. Round first: np.clip(np.floor(image + 0.5), 0, 255).astype(np.uint8)."
            )
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
            raise ValueError(f"{name}: images must be [H, W, 3] or [H, W], not {image.shape}.")
    if a.shape != b.shape:
        raise ValueError(f"{name}: the images differ in shape: {a.shape} and {b.shape}.")
    if isinstance(border, bool) or not isinstance(border, (int, np.integer)) or border < 0:
        raise ValueError(f"{name}: border is a number of pixels, 0 or more, not {border!r}.")
    height, width = a.shape[:2]
    if min(height, width) <= 2 * border:
        raise ValueError(
            f"{name}: a border of {border} leaves nothing of an image of {height}x{width}."
        )
    inside = (slice(border, height - border), slice(border, width - border))
    a, b = a[inside], b[inside]
    if a.ndim == 2 and channel == "y":
        a, b = (np.repeat(image[..., None], 3, axis=2) for image in (a, b))
    if channel == "y":
        return [(rgb_to_y(a), rgb_to_y(b))]
    if a.ndim == 2:
        return [(a.astype(np.float64), b.astype(np.float64))]
    return [(a[..., c].astype(np.float64), b[..., c].astype(np.float64)) for c in range(3)]
