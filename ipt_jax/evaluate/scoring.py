"""Scores a model on whole pictures: degrade, restore by tiles, PSNR and SSIM on Y and RGB; a table
and a picture.
"""

from __future__ import annotations

import collections
import dataclasses
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures

import numpy as np

from ipt_jax.degradations.noise import Noise
from ipt_jax.errors import DataError
from ipt_jax.images.resize import bicubic_up
from ipt_jax.metrics import psnr, ssim
from ipt_jax.restore.images import restore_pictures, to_uint8
from ipt_jax.restore.network import Apply
from ipt_jax.tasks import Task


@dataclasses.dataclass(frozen=True)
class Picture:
    """A named clean picture, uint8 `[H, W, 3]`, and its lq where the set comes with one."""

    name: str
    hq: np.ndarray
    lq: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Score:
    """One picture's scores at one task: of the input (for SR, of its bicubic enlargement) and of
    the result.
    """

    picture: str
    task: str
    before: dict[str, float]
    after: dict[str, float]


def unclipped(task: Task) -> Task:
    """The task with noise that is not clipped to 0..255, if it is noise; else the task itself.

    The draws are the same. This is the convention of the published numbers of CBM3D, DnCNN and
    FFDNet.
    """
    if not isinstance(task.degrade, Noise):
        return task
    return dataclasses.replace(task, degrade=dataclasses.replace(task.degrade, clipped=0.0))


def generator(seed: int, name: str) -> np.random.Generator:
    """Noise from a seed and the picture's name, so that a score is the same on every machine."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def make_lq(picture: Picture, task: Task, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(lq, hq) of a whole picture; hq is cut to a multiple of the scale first.

    Raises:
      DataError: the picture is smaller than the scale, or its lq is not of hq's size over the
        scale.
    """
    height, width = (size // task.scale for size in picture.hq.shape[:2])
    if not height or not width:
        raise DataError(
            f"{picture.name} is {picture.hq.shape[1]}x{picture.hq.shape[0]}, too small for "
            f"{task.name}"
        )
    hq = np.ascontiguousarray(picture.hq[: height * task.scale, : width * task.scale])
    if picture.lq is None:
        return task.degrade(hq, generator(seed, picture.name)), hq
    if picture.lq.shape[:2] != (height, width):
        raise DataError(
            f"{picture.name}: the pair's sizes do not match: the degraded picture is "
            f"{picture.lq.shape[1]}x"
            f"{picture.lq.shape[0]}, the clean one {picture.hq.shape[1]}x{picture.hq.shape[0]}; "
            f"{task.name} "
            f"needs {width}x{height} for it"
        )
    return picture.lq, hq


def score(output: np.ndarray, hq: np.ndarray, border: int) -> dict[str, float]:
    """All metrics of a result against the clean picture, both uint8 `[H, W, 3]`."""
    return {
        f"{metric.__name__}_{channel}": metric(output, hq, channel=channel, border=border)
        for metric in (psnr, ssim)
        for channel in ("y", "rgb")
    }


def baseline(lq: np.ndarray, task: Task) -> np.ndarray:
    """What there is without a network: the input itself, for SR its bicubic enlargement; uint8."""
    return bicubic_up(to_uint8(lq), task.scale) if task.scale > 1 else to_uint8(lq)


@dataclasses.dataclass(frozen=True)
class Degraded:
    """A named pair: lq as the task makes it, hq uint8."""

    name: str
    lq: np.ndarray
    hq: np.ndarray


Result = tuple[Score, np.ndarray, np.ndarray, np.ndarray]


def scored(
    restore: Callable[[Iterator[Degraded]], Iterable[np.ndarray]],
    pictures: Iterable[Picture],
    task: Task,
    seed: int = 0,
) -> Iterator[Result]:
    """Scores whatever `restore` makes of a task's inputs, in order; pictures are asked for as they
    are needed.

    Yields:
      The score, and the clean, degraded and restored picture (uint8).

    Raises:
      DataError: a picture that cannot be scored, by name.
    """
    pending: collections.deque[Degraded] = collections.deque()

    def inputs() -> Iterator[Degraded]:
        for picture in pictures:
            pending.append(Degraded(picture.name, *make_lq(picture, task, seed)))
            yield pending[-1]

    # Beside the main thread, which keeps the device busy; few at a time, since they hold pictures.
    with futures.ThreadPoolExecutor(2) as pool:
        running: collections.deque[futures.Future[Result]] = collections.deque()
        for output in restore(inputs()):
            running.append(pool.submit(_measured, pending.popleft(), output, task))
            while running and (len(running) > 4 or running[0].done()):
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _measured(pair: Degraded, output: np.ndarray, task: Task) -> Result:
    before, after = baseline(pair.lq, task), to_uint8(output)
    try:
        scores = [score(image, pair.hq, task.border) for image in (before, after)]
    except ValueError as error:
        raise DataError(f"{pair.name}: {error}") from None
    return Score(pair.name, task.name, *scores), pair.hq, before, after


def evaluate(
    apply_of: Callable[[Task], Apply],
    pictures: Iterable[Picture],
    task: Task,
    *,
    tile: int,
    overlap: int,
    batch: int,
    seed: int = 0,
    protocol: str = "blend",
    ensemble: bool = False,
) -> Iterator[Result]:
    """Scores a network at a task on pictures, as `scored`; the settings are `restore_pictures`'."""

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

    return scored(restore, pictures, task, seed)
