"""Scores results on complete images: degrade, restore, and measure PSNR and SSIM on Y and RGB."""

from __future__ import annotations

import collections
import dataclasses
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from types import MappingProxyType

import numpy as np

from ipt_jax.degradations.grey import has_noise, is_grey, with_grey_noise
from ipt_jax.degradations.noise import Noise
from ipt_jax.errors import DataError
from ipt_jax.images.resize import bicubic_up
from ipt_jax.messages import printable
from ipt_jax.metrics import METRICS, WINDOW, psnr, ssim
from ipt_jax.restore.images import restore_pictures, to_uint8
from ipt_jax.restore.network import Apply
from ipt_jax.tasks import Task


@dataclasses.dataclass(frozen=True)
class BenchmarkImage:
    """A clean image of a benchmark set.

    Attributes:
      name: name of the image.
      hq: uint8 `[H, W, 3]`.
      lq: the degraded image `[H / scale, W / scale, 3]`; None where the task makes it from hq.
    """

    name: str
    hq: np.ndarray
    lq: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Score:
    """The scores of one image at one task.

    Attributes:
      picture: name of the image.
      task: name of the task.
      before: scores of the input (for SR, of its bicubic enlargement), `{"psnr_y": dB, ...}`; NaN
        for a metric that such a small image does not have.
      after: scores of the result.
      noise: "grey" or "colour" noise was made; "" for a task without noise.
    """

    picture: str
    task: str
    before: dict[str, float]
    after: dict[str, float]
    noise: str = ""


def unclipped(task: Task) -> Task:
    """Returns a denoising task whose noise is not clipped to 0..255; other tasks are unchanged.

    The noise has the same draws. The published scores of CBM3D, DnCNN and FFDNet follow this
    convention.
    """
    if not isinstance(task.degrade, Noise):
        return task
    return dataclasses.replace(task, degrade=dataclasses.replace(task.degrade, clipped=0.0))


def generator(seed: int, name: str) -> np.random.Generator:
    """Returns a generator that depends only on a seed and the name of an image.

    So a score is the same on every machine and for every selection of images.
    """
    return np.random.default_rng([seed, zlib.crc32(name.encode("utf-8", "surrogateescape"))])


def kind_of_noise(image: BenchmarkImage, task: Task) -> str:
    """Returns which noise a task makes for an image: "grey", "colour", or "" for none.

    A grey image (R = G = B) gets grey noise, as in published tables for grey sets.
    """
    if image.lq is not None or not has_noise(task.degrade):
        return ""
    return "grey" if is_grey(image.hq) else "colour"


def is_large_enough(image: BenchmarkImage, task: Task) -> bool:
    """Returns whether an image has a pixel left after its reduction."""
    return min(image.hq.shape[:2]) >= task.scale


def make_lq(image: BenchmarkImage, task: Task, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (lq, hq) of an image; hq is first cut to a multiple of the scale.

    Args:
      image: the image.
      task: the task, which degrades hq where the image has no lq; grey images get grey noise.
      seed: seed of the degradation.

    Raises:
      DataError: the image is smaller than the scale, or its lq does not have hq's size over the
        scale.
    """
    height, width = (size // task.scale for size in image.hq.shape[:2])
    if not is_large_enough(image, task):
        raise DataError(
            f"{printable(image.name)} is {image.hq.shape[1]}x{image.hq.shape[0]}, too small for "
            f"{task.name}"
        )
    hq = np.ascontiguousarray(image.hq[: height * task.scale, : width * task.scale])
    if image.lq is None:
        grey = kind_of_noise(image, task) == "grey"
        degrade = with_grey_noise(task.degrade) if grey else task.degrade
        return degrade(hq, generator(seed, image.name)), hq
    if image.lq.shape[:2] != (height, width):
        raise DataError(
            f"{printable(image.name)}: the sizes of the pair do not match: lq is "
            f"{image.lq.shape[1]}x{image.lq.shape[0]}, hq is "
            f"{image.hq.shape[1]}x{image.hq.shape[0]}; {task.name} needs an lq of {width}x{height}"
        )
    return image.lq, hq


def score_image(output: np.ndarray, hq: np.ndarray, border: int) -> dict[str, float]:
    """Returns all metrics of a result against the clean image, both uint8 `[H, W, 3]`.

    Args:
      output: the result.
      hq: the clean image.
      border: pixels that are left out on every side.

    Returns:
      `{"psnr_y": dB, ...}`; NaN for a metric that is not defined for such a small image: inside the
      border, PSNR needs a pixel and SSIM needs 11x11.

    Raises:
      ValueError: the shapes differ, or an image is not uint8.
    """
    side = min(hq.shape[:2]) - 2 * border
    scores = dict.fromkeys(METRICS, float("nan"))
    for metric, least in ((psnr, 1), (ssim, WINDOW)):
        if side >= least:
            for channel in ("y", "rgb"):
                score = metric(output, hq, channel=channel, border=border)
                scores[f"{metric.__name__}_{channel}"] = score
    return scores


def baseline(lq: np.ndarray, task: Task) -> np.ndarray:
    """Returns the input as uint8, for SR its bicubic enlargement."""
    return bicubic_up(to_uint8(lq), task.scale) if task.scale > 1 else to_uint8(lq)


@dataclasses.dataclass(frozen=True)
class Degraded:
    """A pair to restore.

    Attributes:
      name: name of the image.
      lq: `[H / scale, W / scale, 3]`, uint8 or float32 in 0..255.
      hq: uint8 `[H, W, 3]`.
      noise: "grey", "colour" or "", as in `Score`.
    """

    name: str
    lq: np.ndarray
    hq: np.ndarray
    noise: str = ""


# The name of the optional metric that needs no clean image (evaluate/niqe.py).
NIQE = "niqe"

# Metrics of one image uint8 `[H, W, 3]`, by name.
Blind = Mapping[str, Callable[[np.ndarray], float]]

_NONE: Blind = MappingProxyType({})

# The score, and the clean, degraded and restored image, uint8 `[H, W, 3]`.
Result = tuple[Score, np.ndarray, np.ndarray, np.ndarray]


def score_images(
    restore: Callable[[Iterator[Degraded]], Iterable[np.ndarray]],
    images: Iterable[BenchmarkImage],
    task: Task,
    seed: int = 0,
    blind: Blind = _NONE,
) -> Iterator[Result]:
    """Scores the results of `restore` for a task, in the order of the images.

    Args:
      restore: a function from pairs to results `[H, W, 3]`, uint8 or float in 0..255.
      images: the images, which are read when they are needed.
      task: the task.
      seed: seed of the degradation.
      blind: further metrics, which need no clean image.

    Yields:
      The score, and the clean, degraded and restored image (uint8).

    Raises:
      DataError: an image cannot be scored; the message names it.
    """
    pending: collections.deque[Degraded] = collections.deque()

    def inputs() -> Iterator[Degraded]:
        for image in images:
            lq, hq = make_lq(image, task, seed)
            pending.append(Degraded(image.name, lq, hq, kind_of_noise(image, task)))
            yield pending[-1]

    # The main thread keeps the device busy, so scores are computed in other threads. Few of them
    # wait at a time, because each holds three images.
    with futures.ThreadPoolExecutor(2) as pool:
        running: collections.deque[futures.Future[Result]] = collections.deque()
        for output in restore(inputs()):
            running.append(pool.submit(_measure, pending.popleft(), output, task, blind))
            while running and (len(running) > 4 or running[0].done()):
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _measure(pair: Degraded, output: np.ndarray, task: Task, blind: Blind) -> Result:
    before, after = baseline(pair.lq, task), to_uint8(output)
    of_input, of_result = (
        score_image(image, pair.hq, task.border) | _blind_scores(image, task.border, blind)
        for image in (before, after)
    )
    score = Score(pair.name, task.name, of_input, of_result, pair.noise)
    return score, pair.hq, before, after


def _blind_scores(image: np.ndarray, border: int, blind: Blind) -> dict[str, float]:
    """Returns the further metrics of an image, inside the border."""
    height, width = image.shape[:2]
    inside = image[border : height - border, border : width - border]
    return {name: metric(inside) for name, metric in blind.items()}


def score_network(
    apply_of: Callable[[Task], Apply],
    images: Iterable[BenchmarkImage],
    task: Task,
    *,
    tile: int,
    overlap: int,
    batch: int,
    seed: int = 0,
    protocol: str = "blend",
    ensemble: bool = False,
) -> Iterator[Result]:
    """Scores a network at a task; see `score_images`.

    Args:
      apply_of: a function from a task to the network for it.
      images: the images, which are read when they are needed.
      task: the task.
      tile, overlap, batch, protocol, ensemble: see `restore_pictures`.
      seed: seed of the degradation.
    """

    def restore(pairs: Iterator[Degraded]) -> Iterator[np.ndarray]:
        return restore_pictures(
            apply_of(task),
            (pair.lq for pair in pairs),
            scale=task.scale,
            tile=tile,
            overlap=overlap,
            batch=batch,
            protocol=protocol,
            ensemble=ensemble,
        )

    return score_images(restore, images, task, seed)
