"""Scores a run's state on held-out images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from ipt_jax import log
from ipt_jax.config import resolve
from ipt_jax.data.sources.pairs import decode_pair
from ipt_jax.data.sources.source import open_source
from ipt_jax.distributed import devices
from ipt_jax.errors import DataError, DecodeError
from ipt_jax.evaluate.results import format_means, mean_score
from ipt_jax.evaluate.scoring import BenchmarkImage, score_network
from ipt_jax.images.decode import decode
from ipt_jax.images.sheet import contact_sheet, save_png
from ipt_jax.log import logger
from ipt_jax.messages import say
from ipt_jax.model import IPT
from ipt_jax.model.trainable import weights_for_use
from ipt_jax.restore.network import CompiledNetwork
from ipt_jax.run_folder import folder as names
from ipt_jax.run_folder.curves import save_curves
from ipt_jax.run_folder.metrics_log import HELD_OUT, MetricsLog
from ipt_jax.step.state import TrainState
from ipt_jax.tasks import Task, make_tasks


class GivenUp(Exception):
    """An evaluation was given up before its end, because a signal has stopped the run."""


class Validator:
    """Scores the state on held-out images; leaves a table and a contact sheet in the run's folder.

    Args:
      model: the network.
      tasks: the run's tasks.
      config: the resolved config.
      mesh: the devices.
      folder: the run's folder.

    Raises:
      DataError: `evaluate.every` is set, but no held-out image can be read.
    """

    def __init__(
        self,
        model: IPT,
        tasks: tuple[Task, ...],
        config: dict[str, Any],
        mesh: jax.sharding.Mesh,
        folder: epath.Path,
    ):
        self._tasks, self._settings, self._tile = tasks, config["evaluate"], config["model"]["tile"]
        self._network = CompiledNetwork(model, mesh)
        # Merging adapters computes, so it is compiled; without adapters there is nothing to do.
        compiled = jax.jit if config["finetune"]["lora_rank"] else lambda function: function
        self._weights = compiled(lambda params, ema: weights_for_use(params, ema, config))
        self._folder = folder
        self._batch = self._settings["batch"] * mesh.size
        self._images: list[BenchmarkImage] = []
        if self._settings["every"]:
            self._images = held_out(config, self._settings["pictures"], self._settings["size"])

    def due(self, step: int) -> bool:
        """Returns whether the state is to be scored after a step."""
        every = self._settings["every"]
        return bool(every) and step % every == 0

    def __call__(
        self,
        state: TrainState,
        step: int,
        metrics_log: MetricsLog,
        given_up: Callable[[str], bool] = lambda where: False,
    ) -> dict[str, dict[str, float]]:
        """Scores the EMA of a state (or its parameters, if it has none) at every task.

        Args:
          state: the state.
          step: its step.
          metrics_log: takes the scores and, for TensorBoard, the contact sheet.
          given_up: returns whether to give up the evaluation; asked before each image with a text
            that names the image. With several processes, all of them must get the same answers.

        Returns:
          `{task: {metric: value}}`, the means over the images; the metrics of the degraded images
          have the prefix "input_".

        Raises:
          GivenUp: `given_up` returned true; nothing was written.
        """
        params = self._weights(state.params, state.ema)
        means, rows = [], []
        values: dict[str, float] = {}
        for task in self._tasks:
            results = list(
                score_network(
                    lambda t: self._network.bind(params, t.name),
                    _until(given_up, self._images, task.name),
                    task,
                    tile=self._tile,
                    overlap=self._settings["overlap"],
                    batch=self._batch,
                )
            )
            means.append(mean_score([score for score, *_ in results]))
            rows.append((task.name, *results[0][1:]))
            values |= {f"{HELD_OUT}/{task.name}/{k}": v for k, v in means[-1].after.items()}
        metrics_log.write(step, values, "evaluation")
        if devices.is_main():
            self._show(step, format_means(means), contact_sheet(rows), metrics_log)
        return {
            s.task: {**{f"input_{k}": v for k, v in s.before.items()}, **s.after} for s in means
        }

    def _show(self, step: int, text: str, image: np.ndarray, metrics_log: MetricsLog) -> None:
        """Prints the table, and writes it, the contact sheet and the curves."""
        folder = self._folder / names.EVALUATION
        path = folder / f"{step:08d}.png"
        metrics_log.picture(step, f"{HELD_OUT}/before_after", image)
        with log.extra(path):
            folder.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".txt").write_text(text + "\n")
            save_png(path, image)
            save_curves(self._folder / names.CURVES, metrics_log.lines())
        say(f"\nstep {step}, {len(self._images)} held-out image(s):\n{text}\nimage: {path}\n")


def _until(
    given_up: Callable[[str], bool], images: Iterable[BenchmarkImage], task: str
) -> Iterator[BenchmarkImage]:
    """Yields the images; raises GivenUp before one of them where `given_up` returns true.

    The question is a barrier of all processes, and the network's calls are collectives, so both
    must come in the same order in each process. Images are drawn in an order that depends on the
    batches alone. Results are not: a process yields one as soon as its score is computed.
    """
    for index, image in enumerate(images):
        if given_up(f"{task} {index}"):
            raise GivenUp
        yield image


def held_out(config: dict[str, Any], count: int, size: int) -> list[BenchmarkImage]:
    """Returns the first readable held-out images.

    Args:
      config: the resolved config.
      count: how many images at most.
      size: larger images are cropped to a square of this size at their centre; 0 keeps their size.

    Raises:
      DataError: no held-out image can be read.
    """
    settings = resolve.data_of(config)
    source, scale = open_source(settings, "eval"), settings.get("scale", 1)
    largest = max(task.scale for task in make_tasks(config["tasks"]))
    images: list[BenchmarkImage] = []
    for i in range(len(source)):
        if len(images) == count:
            break
        lq = None
        try:
            raw: Any = source[i]
            if isinstance(raw, tuple):
                lq, hq = decode_pair(raw, scale)
            else:
                hq = raw if isinstance(raw, np.ndarray) else decode(raw)
        except DecodeError as error:
            logger.warning(
                "held-out image %s cannot be read and is left out: %s", source.name(i), error
            )
            continue
        if min(hq.shape[:2]) < largest:
            logger.warning("held-out image %s is too small and is left out", source.name(i))
            continue
        images.append(BenchmarkImage(source.name(i), *_cropped(hq, lq, size, scale)))
    if not images:
        raise DataError(
            "no held-out image can be read: set data.held_out, or evaluate.every=0 to train "
            "without evaluations"
        )
    return images


def _cropped(
    hq: np.ndarray, lq: np.ndarray | None, size: int, scale: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the centre of an image, at most `size` wide and high, and the same part of its lq."""
    y, x = 0, 0
    if size:
        y, x = (max(0, (side - size) // 2) // scale * scale for side in hq.shape[:2])
        hq = hq[y : y + size, x : x + size]
    if lq is not None:
        height, width = hq.shape[:2]
        lq = lq[y // scale : (y + height) // scale, x // scale : (x + width) // scale]
    return hq, lq
