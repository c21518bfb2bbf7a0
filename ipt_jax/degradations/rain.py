"""Rain streaks: bright, grey, parallel strokes that are added to an image.

The streaks are either drawn (:class:`Rain`, with ranges that are fitted to the statistics of
Rain100L, see ``docs/rain.md``) or taken from a folder of images of streaks (:class:`RainFolder`).
The model is the additive one of Yang et al., "Deep Joint Rain Detection and Removal from a Single
Image", CVPR 2017: the same layer is added to R, G and B, and the sum is clipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import copysign, exp, gamma, inf, log, radians, tan
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np

from ipt_jax.degradations.base import Range
from ipt_jax.errors import DecodeError
from ipt_jax.images.files import read_image_file
from ipt_jax.images.formats import SUFFIXES

# Standard deviation of log length and log width within an image.
_LENGTH_SPREAD = 1.1
_WIDTH_SPREAD = 0.25
# Limits of a streak's length, in median lengths.
_SHORTEST, _LONGEST = 0.25, 3.0
# Brightness is an exponential variate to this power; 1 gives too many very bright streaks.
_BRIGHTNESS = 0.85
# Offsets of the five pixels across a streak.
_ACROSS = np.arange(-2, 3, dtype=np.int32)[:, None]
# Full width at half maximum of a Gaussian of sigma 1.
_FWHM = 2.3548


def rain_layer(
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    density: float = 90.0,
    length: float = 26.0,
    width: float = 1.7,
    angle: float = 0.0,
    intensity: float = 35.0,
    spread: float = 1.0,
) -> np.ndarray:
    """Draws the streaks of one image.

    Positions are uniform. Streaks with their centre outside the image reach into it, so a small
    layer has the statistics of a crop of a large one. Within an image, lengths and widths vary by a
    log-normal factor, brightness by a Weibull factor (nearly exponential), and angles normally.
    Along its length, the brightness of a streak is a parabola that falls to zero at both ends;
    across, it is a Gaussian.

    Args:
      shape: (H, W) in pixels.
      rng: the source of all randomness.
      density: pixels of streak length per 1000 pixels of the image. There are ``density / length``
        streaks per 1000 pixels, so that the coverage does not depend on ``length``.
      length: median length of a streak in pixels; lengths are limited to a quarter and to three
        times this.
      width: median full width at half maximum across a streak in pixels; about 1 to 3.
      angle: degrees from the vertical; positive angles lean the top to the right.
      intensity: mean brightness of the brightest points of streaks in grey levels (0..255).
      spread: standard deviation of the angles of streaks around ``angle``, in degrees.

    Returns:
      float32 ``[H, W]``, 0 or more, not clipped at 255.
    """
    height, columns = shape
    angle = (angle + 90.0) % 180.0 - 90.0
    # Strokes are drawn row by row, so flat ones are drawn in a transposed layer.
    if abs(angle) > 45:
        on_side = copysign(90.0, angle) - angle
        layer = rain_layer(
            (columns, height),
            rng,
            density=density,
            length=length,
            width=width,
            angle=on_side,
            intensity=intensity,
            spread=spread,
        )
        return np.ascontiguousarray(layer.T)
    top = 0.5 * _LONGEST * length
    side = top * abs(tan(radians(angle))) + 3 * width
    tall, wide = height + 2 * top, columns + 2 * side
    count = int(rng.poisson(density / length * tall * wide / 1000))
    u = rng.random((3, count), dtype=np.float32)
    normal = rng.standard_normal((3, count), dtype=np.float32)
    middle_y, middle_x = u[0] * tall - top, u[1] * wide - side
    peak = (intensity / gamma(1 + _BRIGHTNESS)) * (-np.log1p(-u[2])) ** _BRIGHTNESS
    slope = np.tan(np.radians(np.clip(angle + spread * normal[0], -60, 60)))
    cosine = 1 / np.sqrt(1 + slope * slope)
    half = (
        (0.5 * length) * cosine * np.clip(np.exp(_LENGTH_SPREAD * normal[1]), _SHORTEST, _LONGEST)
    )
    sharpness = cosine * (_FWHM / width) * np.exp(-_WIDTH_SPREAD * normal[2])

    # One entry for every row of the image that a streak crosses.
    first = np.maximum(np.ceil(middle_y - half), 0).astype(np.int64)
    last = np.minimum(np.floor(middle_y + half), height - 1).astype(np.int64)
    crossed = np.maximum(last - first + 1, 0)
    streak = np.repeat(np.arange(count), crossed)
    y = np.arange(len(streak)) + np.repeat(first - np.cumsum(crossed) + crossed, crossed)
    offset = (y - middle_y[streak]).astype(np.float32)
    x = (middle_x[streak] - offset * slope[streak]).astype(np.float32)
    brightness = (peak[streak] * (1 - np.square(offset / half[streak]))).astype(np.float32)

    # Five pixels of each of these rows.
    nearest = np.rint(x)
    across = (_ACROSS + (nearest - x)) * sharpness[streak].astype(np.float32)
    value = brightness * np.exp(-0.5 * across * across)
    column = nearest.astype(np.int64) + _ACROSS
    outside = height * columns
    place = np.where((column >= 0) & (column < columns), y * columns + column, outside)
    total = np.bincount(place.ravel(), value.ravel(), outside + 1)
    return total[:outside].reshape(height, columns).astype(np.float32)


def _log_uniform(span: Range, rng: np.random.Generator) -> float:
    return exp(rng.uniform(log(span[0]), log(span[1])))


def _add(hq: np.ndarray, layer: np.ndarray) -> np.ndarray:
    lq = hq + layer[..., None]
    return np.clip(lq, 0, 255, out=lq)


@dataclass(frozen=True)
class Rain:
    """Drawn rain: uint8 ``[H, W, 3]`` -> float32 of the same shape, clipped to 0..255, not rounded.

    Every image draws its density, length, width and intensity (log-uniform) and its angle (uniform)
    from these ranges, and then its streaks by :func:`rain_layer`. The defaults are fitted to
    Rain100L (``docs/rain.md``). A crop needs no margin, because the layer does not depend on the
    image.

    Attributes:
      density, length, width, angle, intensity: ranges (low, high); :func:`rain_layer` gives their
        units.

    Raises:
      ValueError: when made with a range that is not (low, high), or that is not positive (angles
        may be negative).
    """

    density: Range = (60.0, 140.0)
    length: Range = (14.0, 50.0)
    width: Range = (1.4, 2.0)
    angle: Range = (-28.0, 28.0)
    intensity: Range = (15.0, 90.0)
    scale: ClassVar[int] = 1
    margin: ClassVar[int] = 0
    rounded: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("density", "length", "width", "angle", "intensity"):
            least = -inf if name == "angle" else 0.0
            span = tuple(getattr(self, name))
            if len(span) != 2 or not least < span[0] <= span[1] < inf:
                above = "" if least < 0 else " above 0"
                raise ValueError(f"Rain: {name} must be a range (low, high){above}, not {span}.")
            object.__setattr__(self, name, span)

    def __call__(self, hq: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        density, length, width, intensity = (
            _log_uniform(span, rng)
            for span in (self.density, self.length, self.width, self.intensity)
        )
        angle = rng.uniform(*self.angle)
        layer = rain_layer(
            hq.shape[:2],
            rng,
            density=density,
            length=length,
            width=width,
            angle=angle,
            intensity=intensity,
        )
        return _add(hq, layer)


@dataclass(frozen=True)
class RainFolder:
    """Rain from a folder of images of streaks: uint8 ``[H, W, 3]`` -> float32 of the same shape.

    The result is clipped to 0..255 and not rounded. The images are read as grey levels (bright
    streaks on black), and a random crop of a random one is added to R, G and B. An image that is
    too small is repeated. The result depends only on the folder's images, in the order of their
    names, and on the generator. A process lists the folder once and caches the images.

    Attributes:
      directory: the folder.

    Raises:
      ValueError: when called, if the folder is missing or empty, or an image cannot be read.
    """

    directory: str
    scale: ClassVar[int] = 1
    margin: ClassVar[int] = 0
    rounded: ClassVar[bool] = False

    def __call__(self, hq: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        files = _streak_files(str(self.directory))
        streaks = _streaks(files[rng.integers(len(files))])
        rows, columns = (
            (rng.integers(have - need + 1 if have >= need else have) + np.arange(need)) % have
            for have, need in zip(streaks.shape, hq.shape[:2], strict=True)
        )
        return _add(hq, streaks[np.ix_(rows, columns)].astype(np.float32))


@lru_cache(maxsize=16)
def _streak_files(directory: str) -> tuple[str, ...]:
    folder = Path(directory)
    if not folder.is_dir():
        raise ValueError(
            f"RainFolder: {directory!r} is not a folder; name one with images of rain streaks."
        )
    files = tuple(str(path) for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(
            f"RainFolder: {directory!r} holds no image ({', '.join(sorted(SUFFIXES))})."
        )
    return files


@lru_cache(maxsize=256)
def _streaks(path: str) -> np.ndarray:
    try:
        data = read_image_file(path)
    except (OSError, DecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"RainFolder: {path!r} cannot be read: {reason}.") from None
    # OpenCV's imread crashes for a name that is not UTF-8, and imdecode raises for no data.
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) if data else None
    if image is None:
        raise ValueError(f"RainFolder: {path!r} cannot be read as an image.")
    return image
