"""What is scored: a model, a baseline, or images that something else restored."""

from __future__ import annotations

import abc
import argparse
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ipt_jax.data.layouts import match_names, picture_files, read_picture
from ipt_jax.errors import DataError, UsageError
from ipt_jax.evaluate.scoring import Degraded, Result, baseline, scored
from ipt_jax.evaluate.sets import BenchmarkSet
from ipt_jax.evaluate.trials import Trial
from ipt_jax.messages import listed
from ipt_jax.restore.images import count_tiles
from ipt_jax.restore.restorer import Restorer
from ipt_jax.tasks import PAPER_TASKS, TASKS, Task
from ipt_jax.versions import __version__

RestorePairs = Callable[[Iterator[Degraded]], Iterable[np.ndarray]]


class Candidate(abc.ABC):
    """What is scored: a model, or pictures that are there already."""

    tasks: dict[str, Task] = TASKS

    def __init__(self, options: argparse.Namespace):
        self.name: str = options.weights

    @property
    def usual(self) -> list[str]:
        """The tasks that are scored if none are named: the paper's of those that it has."""
        return [name for name in self.tasks if name in PAPER_TASKS]

    @abc.abstractmethod
    def restore(self, one: BenchmarkSet, trial: Trial) -> RestorePairs:
        """How inputs become results."""

    def prepare(self, trial: Trial) -> None:
        """Compiles what the trial needs, so that it is not counted as its time."""
        return

    def score(
        self, one: BenchmarkSet, trial: Trial, pictures: Iterable[Any], seed: int
    ) -> Iterator[Result]:
        """Every picture's score, and the pictures."""
        for result in scored(self.restore(one, trial), pictures, trial.task, seed):
            yield dataclasses.replace(result[0], task=trial.label), *result[1:]

    def tiles(self, result: Result, trial: Trial) -> int:
        """Tiles that a picture took."""
        return 0

    def settings(self, options: argparse.Namespace) -> dict[str, Any]:
        """What the numbers depend on."""
        return {
            "weights": self.name,
            "seed": options.seed,
            "noise clip": options.noise_clip,
            "ipt_jax": __version__,
        }


class Baseline(Candidate):
    """The words `input` and `bicubic`."""

    def __init__(self, options: argparse.Namespace):
        super().__init__(options)
        self.tasks = {
            n: t for n, t in TASKS.items() if (t.scale > 1) == (options.weights == "bicubic")
        }

    def restore(self, one: BenchmarkSet, trial: Trial) -> RestorePairs:
        return lambda pairs: (baseline(pair.lq, trial.task) for pair in pairs)


class Outputs(Candidate):
    """The words `outputs:DIR`: files restored by something else, in DIR, DIR/TASK, DIR/x2, or those
    in DIR/SET.
    """

    def __init__(self, options: argparse.Namespace):
        super().__init__(options)
        self._folder = Path(options.weights.removeprefix("outputs:")).expanduser()
        if not self._folder.is_dir():
            raise UsageError(f"--weights {options.weights}: there is no folder {self._folder}")

    def restore(self, one: BenchmarkSet, trial: Trial) -> RestorePairs:
        inner = [trial.label, *(f"{x}{trial.task.scale}" for x in "xX" if trial.task.scale > 1), ""]
        places = [self._folder / outer / name for outer in (one.name, "") for name in inner]
        place = next((p for p in places if p.is_dir() and picture_files(p)), None)
        if place is None:
            raise DataError(
                f"--weights {self.name}: no pictures for {one.name} {trial.label}; looked in "
                + listed([str(p) for p in places], len(places))
            )
        found = match_names(one.hq, picture_files(place), str(place), "restored picture")

        def restore(pairs: Iterator[Degraded]) -> Iterator[np.ndarray]:
            for pair in pairs:
                output = read_picture(found[pair.name])
                if output.shape != pair.hq.shape:
                    raise DataError(
                        f"{found[pair.name]} is {output.shape[1]}x{output.shape[0]}; {trial.label} of "
                        f"{pair.name} gives {pair.hq.shape[1]}x{pair.hq.shape[0]}"
                    )
                yield output

        return restore


class Weights(Candidate):
    """A model: compiled once a task, whatever the pictures and sets."""

    def __init__(self, options: argparse.Namespace):
        super().__init__(options)
        from ipt_jax.weights.load import load

        if options.batch < 1:
            raise UsageError(f"--batch {options.batch}: at least 1 tile a call")
        self.model: Restorer = load(
            options.weights,
            task=options.weights_tasks,
            heads=options.heads,
            raw=options.raw,
            dtype=options.dtype,
        )
        self.tasks = dict(self.model.tasks)
        tile = self.model.model.tile
        if not 0 <= options.overlap < tile:
            raise UsageError(
                f"--overlap {options.overlap}: tiles of {tile} pixels can overlap by 0 to "
                f"{tile - 1}"
            )
        self._cut: dict[str, Any] = dict(
            protocol=options.protocol, overlap=options.overlap, ensemble=options.ensemble
        )
        self._batch = options.batch

    def restore(self, one: BenchmarkSet, trial: Trial) -> RestorePairs:
        return lambda pairs: self.model.restore_all(
            (pair.lq for pair in pairs), trial.head, batch=self._batch, **self._cut
        )

    @property
    def usual(self) -> list[str]:
        """All tasks of the weights."""
        return list(self.tasks)

    def prepare(self, trial: Trial) -> None:
        tile = self.model.model.tile
        np.asarray(
            self.model.bind(trial.head)(
                np.zeros((self._batch * self.model.devices, tile, tile, 3), np.float32)
            )
        )

    def tiles(self, result: Result, trial: Trial) -> int:
        height, width = (size // trial.task.scale for size in result[1].shape[:2])
        return count_tiles(height, width, tile=self.model.model.tile, **self._cut)

    def settings(self, options: argparse.Namespace) -> dict[str, Any]:
        cut = {"protocol": options.protocol} | (
            {"overlap": options.overlap} if options.protocol == "blend" else {}
        )
        return {
            **super().settings(options),
            **cut,
            "ensemble": "x8" if options.ensemble else "no",
            "dtype": options.dtype,
            "devices": self.model.devices,
            "programs": self.model.programs(),
            "provenance": dict(self.model.provenance),
        }


def open_candidate(options: argparse.Namespace) -> Candidate:
    """What the word after --weights names."""
    if options.weights in ("input", "bicubic"):
        return Baseline(options)
    return Outputs(options) if options.weights.startswith("outputs:") else Weights(options)
