"""Scores a run's state on held-out pictures and shows it."""

from __future__ import annotations

import sys
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
from ipt_jax.images.sheet import save_png, sheet
from ipt_jax.model import IPT
from ipt_jax.model import trainable as adapt
from ipt_jax.restore.network import CompiledNetwork
from ipt_jax.run_folder import curves as plots
from ipt_jax.run_folder import metrics_log as metrics_log_module
from ipt_jax.step.state import TrainState
from ipt_jax.tasks import Task

logger = log.logger


class Validator:
    """Scores the state on held-out pictures; leaves a table and a contact sheet in the run's
    folder.
    """

    def __init__(
        self,
        model: IPT,
        tasks: tuple[Task, ...],
        plain: dict[str, Any],
        mesh: jax.sharding.Mesh,
        folder: epath.Path,
    ):
        self._tasks, self._settings, self._tile = tasks, plain["evaluate"], plain["model"]["tile"]
        self._apply = CompiledNetwork(model, mesh)
        # Compiled, where adapters are to be merged.
        merge = jax.jit if plain["finetune"]["lora_rank"] else lambda function: function
        self._weights = merge(lambda params, ema: adapt.weights(params, ema, plain))
        self._folder = folder / "evaluation"
        self._batch = self._settings["batch"] * mesh.size
        self._pictures: list[BenchmarkImage] = []
        self._set = "held_out"
        if self._settings["every"]:
            self._pictures = held_out(plain, self._settings["pictures"], self._settings["size"])

    def due(self, step: int) -> bool:
        every = self._settings["every"]
        return bool(every) and step % every == 0

    def __call__(
        self, state: TrainState, step: int, metrics_log: metrics_log_module.MetricsLog
    ) -> dict[str, dict[str, float]]:
        params = self._weights(state.params, state.ema)
        means, rows = [], []
        values: dict[str, float] = {}
        for task in self._tasks:
            results = list(
                score_network(
                    lambda t: self._apply.bind(params, t.name),
                    self._pictures,
                    task,
                    tile=self._tile,
                    overlap=self._settings["overlap"],
                    batch=self._batch,
                )
            )
            means.append(mean_score([score for score, *_ in results]))
            rows.append((task.name, *results[0][1:]))
            values |= {f"{self._set}/{task.name}/{k}": v for k, v in means[-1].after.items()}
        metrics_log.write(step, values, "evaluation")
        if devices.is_main():
            path, picture, text = self._folder / f"{step:08d}.png", sheet(rows), format_means(means)
            metrics_log.picture(step, f"{self._set}/before_after", picture)
            with log.extra(path):
                self._folder.mkdir(parents=True, exist_ok=True)
                (self._folder / f"{step:08d}.txt").write_text(text + "\n")
                save_png(path, picture)
                plots.save_curves(self._folder.parent / "curves.png", metrics_log.lines())
            sys.stderr.flush()
            print(
                f"\nstep {step}, {len(self._pictures)} held-out picture(s):\n{text}\npicture: "
                f"{path}\n",
                flush=True,
            )
        return {
            s.task: {**{f"input_{k}": v for k, v in s.before.items()}, **s.after} for s in means
        }


def held_out(plain: dict[str, Any], count: int, size: int) -> list[BenchmarkImage]:
    """The first readable held-out pictures, cut to their middle if larger than `size` (0: whole).

    Raises:
      DataError: there are none.
    """
    settings = resolve.data_of(plain)
    source, scale = open_source(settings, "eval"), settings.get("scale", 1)
    pictures: list[BenchmarkImage] = []
    for i in range(len(source)):
        if len(pictures) == count:
            break
        raw: Any = source[i]
        lq = None
        try:
            if isinstance(raw, tuple):
                lq, hq = decode_pair(raw, scale)
            else:
                hq = raw if isinstance(raw, np.ndarray) else decode(raw)
        except DecodeError as error:
            logger.warning(
                "held-out picture %s cannot be read and is left out: %s", source.name(i), error
            )
            continue
        if size:
            y, x = (max(0, (s - size) // 2) // scale * scale for s in hq.shape[:2])
            hq = hq[y : y + size, x : x + size]
        # Of the same place
        if lq is not None:
            y, x, height, width = ((y, x) if size else (0, 0)) + hq.shape[:2]
            lq = lq[y // scale : (y + height) // scale, x // scale : (x + width) // scale]
        pictures.append(BenchmarkImage(source.name(i), hq, lq))
    if not pictures:
        raise DataError(
            "no held-out picture can be read: set data.held_out, or evaluate.every=0 to go without"
        )
    return pictures
