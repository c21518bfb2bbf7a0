"""NIQE, a score of an image without its clean version.

Mittal, Soundararajan and Bovik, "Making a 'completely blind' image quality analyzer", IEEE Signal
Processing Letters 2013. The score is the distance between the statistics of an image's blocks and
those of photographs without defects: lower is better. The parameters of those photographs are not
part of this package; they come from a file.
"""

from __future__ import annotations

import os
import zipfile

import cv2
import numpy as np
from scipy.special import gamma

from ipt_jax.errors import UsageError
from ipt_jax.metrics import rgb_to_y

# Side of a block in pixels, at full size and at half size.
BLOCK = 96
FEATURES = 36
# Shape parameters among which the fit searches, and their ratio of moments.
_SHAPES = np.arange(0.2, 10.001, 0.001)
_RATIOS = gamma(2 / _SHAPES) ** 2 / (gamma(1 / _SHAPES) * gamma(3 / _SHAPES))
_GAUSSIAN = cv2.getGaussianKernel(7, 7 / 6, cv2.CV_64F)
# Keys' cubic with a = -1/2, stretched by 2, at the eight pixels round a pixel of half the size.
_HALVING = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256


class Niqe:
    """NIQE with the parameters of a file.

    Args:
      path: an .npz with `mu_pris_param` (36 values) and `cov_pris_param` `[36, 36]`, as
        BasicSR's `niqe_pris_params.npz` has them.

    Raises:
      UsageError: the file cannot be read, or lacks these arrays.
    """

    def __init__(self, path: str | os.PathLike[str]):
        try:
            with np.load(path, allow_pickle=False) as file:
                mean = np.asarray(file["mu_pris_param"], np.float64).ravel()
                covariance = np.asarray(file["cov_pris_param"], np.float64)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, AttributeError) as e:
            raise UsageError(
                f"--niqe {os.fspath(path)}: not a file with NIQE's parameters, an .npz with "
                f"mu_pris_param and cov_pris_param: {e}"
            ) from None
        if mean.shape != (FEATURES,) or covariance.shape != (FEATURES, FEATURES):
            raise UsageError(
                f"--niqe {os.fspath(path)}: mu_pris_param and cov_pris_param have the shapes "
                f"{mean.shape} and {covariance.shape}, not (36,) and (36, 36)"
            )
        self._mean, self._covariance = mean, covariance

    def __call__(self, image: np.ndarray) -> float:
        """Returns the score of an image.

        Args:
          image: uint8 `[H, W, 3]`. The luma is scored, rounded to whole numbers; what is left over
            beyond blocks of 96x96 pixels on the right and below is not.

        Returns:
          The score, 0 or more; NaN for an image of fewer than two blocks, which has no covariance.
        """
        luma = np.round(rgb_to_y(image))
        height, width = (size // BLOCK * BLOCK for size in luma.shape)
        if height * width < 2 * BLOCK**2:
            return float("nan")
        full = luma[:height, :width]
        features = np.concatenate([_features(full, BLOCK), _features(_halved(full), BLOCK // 2)], 1)
        intact = features[~np.isnan(features).any(axis=1)]
        # Blocks without any texture have no features.
        if len(intact) < 2:
            return float("nan")
        away = self._mean - np.nanmean(features, axis=0)
        both = (self._covariance + np.cov(intact, rowvar=False)) / 2
        return float(np.sqrt(max(0.0, away @ np.linalg.pinv(both) @ away)))


def _features(luma: np.ndarray, side: int) -> np.ndarray:
    """Returns the 18 features of each block, `[blocks, 18]`."""
    mean = _smooth(luma)
    deviation = np.sqrt(np.abs(_smooth(np.square(luma)) - np.square(mean)))
    normal = (luma - mean) / (deviation + 1)
    rows, columns = (size // side for size in luma.shape)
    blocks = normal.reshape(rows, side, columns, side).transpose(0, 2, 1, 3)
    return np.array([_of_block(block) for block in blocks.reshape(-1, side, side)])


def _smooth(plane: np.ndarray) -> np.ndarray:
    return cv2.sepFilter2D(plane, cv2.CV_64F, _GAUSSIAN, _GAUSSIAN, borderType=cv2.BORDER_REPLICATE)


def _of_block(block: np.ndarray) -> list[float]:
    """Returns the features of a block of normalised luma: shapes and widths of distributions."""
    shape, left, right = _fit(block)
    found = [shape, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, left, right = _fit(block * np.roll(block, shift, axis=(0, 1)))
        found += [shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right]
    return found


def _fit(values: np.ndarray) -> tuple[float, float, float]:
    """Returns the asymmetric generalised Gaussian of values: its shape, and its widths.

    The moments are matched as in Lasmar, Stitou and Berthoumieu, ICIP 2009. All are NaN where there
    are no values on one side of 0.
    """
    below, above = values[values < 0], values[values > 0]
    if not below.size or not above.size:
        return (float("nan"),) * 3
    left, right = (np.sqrt(np.mean(np.square(side))) for side in (below, above))
    skew = left / right
    ratio = np.square(np.mean(np.abs(values))) / np.mean(np.square(values))
    wanted = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shape = _SHAPES[np.argmin(np.square(_RATIOS - wanted))]
    width = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return float(shape), float(left * width), float(right * width)


def _halved(plane: np.ndarray) -> np.ndarray:
    """Returns a plane of half the size as MATLAB's `imresize` makes it, not rounded."""
    for _ in range(2):
        padded = np.pad(plane, ((3, 3), (0, 0)), mode="symmetric")
        count = len(plane) // 2
        # The transposition halves the other axis in the next turn.
        plane = sum(w * padded[i : i + 2 * count : 2] for i, w in enumerate(_HALVING)).T
    return plane
