"""What is scored: a model, a baseline, or images that other software restored."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ipt_jax.data.layouts import picture_files, read_picture
from ipt_jax.data.partners import explain, match_results
from ipt_jax.errors import DataError, UsageError
from ipt_jax.evaluate.scoring import BenchmarkImage, Blind, Degraded, Result, baseline, score_images
from ipt_jax.evaluate.sets import BenchmarkSet
from ipt_jax.evaluate.trials import Trial
from ipt_jax.log import logger
from ipt_jax.messages import listed
from ipt_jax.restore.images import count_tiles
from ipt_jax.restore.restorer import Restorer
from ipt_jax.restore.tiling import Tiling
from ipt_jax.tasks import PAPER_TASKS, TASKS, Task
from ipt_jax.trees import flatten

RestorePairs = Callable[[Iterator[Degraded]], Iterable[np.ndarray]]

# Values of --weights that name a baseline, and the start of the value that names images.
BASELINES = ("input", "bicubic")
OUTPUTS = "outputs:"


class Candidate(abc.ABC):
    """What is scored.

    Attributes:
      name: the value of --weights.
      tasks: the tasks that it can restore, by name.
    """

    def __init__(self, name: str, tasks: dict[str, Task]):
        self.name, self.tasks = name, tasks

    @property
    def usual(self) -> list[str]:
        """The tasks that are scored if the user names none: those of the paper."""
        return [name for name in self.tasks if name in PAPER_TASKS]

    @abc.abstractmethod
    def restore(self, one: BenchmarkSet, trial: Trial) -> RestorePairs:
        """Returns the function from pairs to results `[H, W, 3]`, uint8 or float in 0..255."""

    def prepare(self, trial: Trial) -> None:
        """Compiles the program for a trial, so that its time does not include compilation."""
        return

    def score(
        self,
        one: BenchmarkSet,
        trial: Trial,
        images: Iterable[BenchmarkImage],
        seed: int,
        blind: Blind,
    ) -> Iterator[Result]:
        """Yields the score of each image, with the clean, degraded and restored image."""
        for result in score_images(self.restore(one, trial), images, trial.task, seed, blind):
            yield dataclasses.replace(result[0], task=trial.label), *result[1:]

    def tiles(self, result: Result, trial: Trial) -> int:
        """Returns the number of tiles that an image took."""
        return 0

    def settings(self) -> dict[str, Any]:
        """Returns the settings on which the scores depend."""
        return {}

    def fingerprint(self) -> str:
        """Returns a text that differs between candidates of the same name and settings."""
        return ""


class Baseline(Candidate):
    """The degraded image ("input"), or its bicubic enlargement ("bicubic").

    Args:
      name: one of `BASELINES`.
    """

    def __init__(self, name: str):
        enlarges = name == "bicubic"
        super().__init__(name, {n: t for n, t in TASKS.items() if (t.scale > 1) == enlarges})

    def restore(self, one: BenchmarkSet, trial: Trial) -> RestorePairs:
        """Returns a function that yields the baseline of each pair."""
        return lambda pairs: (baseline(pair.lq, trial.task) for pair in pairs)


class Outputs(Candidate):
    """Images that other software restored, found by name.

    They are in DIR, DIR/TASK or DIR/x2, or in these folders below DIR/SET.

    Args:
      name: `outputs:DIR`.

    Raises:
      UsageError: there is no such folder.
    """

    def __init__(self, name: str):
        super().__init__(name, TASKS)
        self._folder = Path(name.removeprefix(OUTPUTS)).expanduser()
        if not self._folder.is_dir():
            raise UsageError(f"--weights {name}: there is no folder {self._folder}")

    def restore(self, one: BenchmarkSet, trial: Trial) -> RestorePairs:
        """Returns a function that yields the image of each pair.

        Raises:
          DataError: there are no images for the set, an image is missing, or its size is wrong.
        """
        inner = [trial.label, *(f"{x}{trial.task.scale}" for x in "xX" if trial.task.scale > 1), ""]
        places = [self._folder / outer / name for outer in (one.name, "") for name in inner]
        below = any("/" in name for name in one.hq)
        place = next((p for p in places if p.is_dir() and picture_files(p, below)), None)
        if place is None:
            raise DataError(
                f"--weights {self.name}: no images for {one.name} {trial.label}; looked in "
                + listed([str(p) for p in places], len(places))
            )
        files = picture_files(place, below)
        match = match_results(one.hq, files)
        if match.alone:
            reason = explain(match._replace(extra=[]), "restored picture", files)
            raise DataError(f"{place}: {reason}; docs/evaluation.md says which names are partners")
        if match.extra:
            logger.warning("%s: no clean image in %s for %s", place, one.name, listed(match.extra))
        found = {name: files[other] for name, other in match.partners.items()}

        def restore(pairs: Iterator[Degraded]) -> Iterator[np.ndarray]:
            for pair in pairs:
                output = read_picture(found[pair.name])
                if output.shape != pair.hq.shape:
                    raise DataError(
                        f"{found[pair.name]} is {output.shape[1]}x{output.shape[0]}; "
                        f"{trial.label} of {pair.name} gives {pair.hq.shape[1]}x{pair.hq.shape[0]}"
                    )
                yield output

        return restore


class Weights(Candidate):
    """A model, compiled once for each task.

    Args:
      name: the value of --weights.
      model: the model.
      tiling: how images are cut into tiles.
      batch: tiles per call and device.

    Raises:
      UsageError: the overlap is not less than the model's tile.
    """

    def __init__(self, name: str, model: Restorer, tiling: Tiling, batch: int):
        super().__init__(name, dict(model.tasks))
        overlap, tile = tiling["overlap"], model.model.tile
        if not 0 <= overlap < tile:
            raise UsageError(
                f"--overlap {overlap}: tiles of {tile} pixels can overlap by 0 to {tile - 1}"
            )
        self._model, self._tiling, self._batch = model, tiling, batch

    @property
    def usual(self) -> list[str]:
        """All tasks of the weights."""
        return list(self.tasks)

    def restore(self, one: BenchmarkSet, trial: Trial) -> RestorePairs:
        """Returns a function that restores each pair."""
        return lambda pairs: self._model.restore_all(
            (pair.lq for pair in pairs), trial.head, batch=self._batch, **self._tiling
        )

    def prepare(self, trial: Trial) -> None:
        """Compiles the program of a task by restoring black tiles."""
        tile = self._model.model.tile
        black = np.zeros((self._batch * self._model.devices, tile, tile, 3), np.float32)
        np.asarray(self._model.bind(trial.head)(black))

    def tiles(self, result: Result, trial: Trial) -> int:
        """Returns the number of tiles that an image took."""
        height, width = (size // trial.task.scale for size in result[1].shape[:2])
        return count_tiles(height, width, tile=self._model.model.tile, **self._tiling)

    def settings(self) -> dict[str, Any]:
        """Returns tiling, dtype, devices, number of programs, and provenance of the weights."""
        protocol = self._tiling["protocol"]
        return {
            "protocol": protocol,
            **({"overlap": self._tiling["overlap"]} if protocol == "blend" else {}),
            "ensemble": "x8" if self._tiling["ensemble"] else "no",
            "dtype": str(np.dtype(self._model.model.dtype)),
            "devices": self._model.devices,
            "programs": self._model.programs(),
            "provenance": dict(self._model.provenance),
        }

    def fingerprint(self) -> str:
        """Returns the SHA-256 of all parameters, with their names, dtypes and shapes."""
        digest = hashlib.sha256()
        for name, value in sorted(flatten(self._model.params).items()):
            array = np.ascontiguousarray(value)
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
        return digest.hexdigest()
