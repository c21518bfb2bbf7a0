"""A benchmark: what is scored, on which sets and tasks; runs it and hands out the scores."""

from __future__ import annotations

import abc
import argparse
import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ipt_jax import __version__
from ipt_jax.cli.evaluate import UsageError
from ipt_jax.data.layouts import Pictures, find_sets, kind_of, match, read
from ipt_jax.data.layouts import files as picture_files
from ipt_jax.data.sources.held_out import DataError, listed
from ipt_jax.degradations.chain import Jpeg
from ipt_jax.evaluate.scoring import Degraded, Result, Score, baseline, mean, scored, unclipped
from ipt_jax.images.resize import Noise
from ipt_jax.restore.images import count_tiles
from ipt_jax.restore.restorer import Restorer
from ipt_jax.tasks import TASKS, Task, nearest

RestorePairs = Callable[[Iterator[Degraded]], Iterable[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Trial:
    """A task to score, and the model's task that is used for it: "denoise50@70" is sigma 70 with the one for 50.

    A task whose strength is drawn for each crop, such as blind denoising, is scored at a fixed one: "denoise@25", "jpeg@40".
    """

    label: str
    head: str
    task: Task

    @classmethod
    def parse(cls, text: str, known: dict[str, Task]) -> Trial:
        """A trial from `TASK`, `TASK@SIGMA` for noise or `TASK@QUALITY` for JPEG.

        Raises:
          UsageError: no such task, a level for something that has none, or none for a task that draws it.
        """
        head, _, level = text.partition("@")
        if head not in known:
            raise UsageError(f"--tasks: there is no task {head!r}{nearest(head, known)}; there is {', '.join(known)}")
        task = known[head]
        if not level:
            if isinstance(strength(task), tuple):
                raise UsageError(
                    f"--tasks {text}: this task draws its strength; name one, such as {', '.join(at_levels(task))}"
                )
            return cls(text, head, task)
        kind = "standard deviation" if isinstance(task.degrade, Noise) else "JPEG quality"
        if strength(task) is None:
            raise UsageError(f"--tasks {text}: only a denoising or JPEG task can be scored at another strength")
        try:
            fixed = Noise(float(level)) if isinstance(task.degrade, Noise) else Jpeg(float(level))
        except ValueError:
            raise UsageError(f"--tasks {text}: {level!r} is no {kind}") from None
        return cls(text, head, Task(text, 1, fixed))


LEVELS = {Noise: (15, 25, 30, 50), Jpeg: (10, 20, 40)}


def strength(task: Task) -> Any:
    """Sigma of noise, quality of JPEG: a number, or the range that it is drawn from; None for other degradations."""
    degrade = task.degrade
    return degrade.sigma if isinstance(degrade, Noise) else degrade.quality if isinstance(degrade, Jpeg) else None


def at_levels(task: Task) -> list[str]:
    """What is scored of a task if none is asked for: itself, or "TASK@LEVEL"s where it draws its strength."""
    if not isinstance(strength(task), tuple):
        return [task.name]
    low, high = strength(task)
    return [f"{task.name}@{level}" for level in LEVELS[type(task.degrade)] if low <= level <= high] or [f"{task.name}@{high:g}"]


@dataclasses.dataclass
class Row:
    """A set at a task: every picture's score, their mean, tiles and seconds."""

    set: Pictures
    trial: Trial
    scores: list[Score]
    tiles: int
    seconds: float

    @property
    def mean(self) -> Score:
        return mean(self.scores)

    def as_json(self) -> dict[str, Any]:
        pictures = [{"picture": s.picture, "input": _finite(s.before), "result": _finite(s.after)} for s in self.scores]
        return {"set": self.set.name, "task": self.trial.label, "pictures": len(self.scores), "layout": self.set.layout,
                "input": _finite(self.mean.before), "result": _finite(self.mean.after), "tiles": self.tiles,
                "seconds": round(self.seconds, 3), "scores": pictures}  # fmt: skip


def _finite(values: dict[str, float]) -> dict[str, Any]:
    return {k: v if np.isfinite(v) else "inf" for k, v in values.items()}  # equal pictures; JSON has no infinity


def table(rows: Sequence[Row]) -> str:
    """A table for the terminal: a line for each set and task, input -> result."""
    lines = [
        f"{'set':<10} {'task':<13} {'n':>3}  {'PSNR-Y':>15}  {'PSNR-RGB':>15}  {'SSIM-Y':>15}  {'SSIM-RGB':>15}  {'tiles/s':>8}"
    ]
    for row in rows:
        b, a = row.mean.before, row.mean.after
        cells = [f"{b[m]:6.2f} -> {a[m]:5.2f}" if m.startswith("psnr") else f"{b[m]:.4f} -> {a[m]:.4f}"
                 for m in ("psnr_y", "psnr_rgb", "ssim_y", "ssim_rgb")]  # fmt: skip
        lines.append(f"{row.set.name:<10} {row.trial.label:<13} {len(row.scores):>3}  " + "  ".join(f"{c:>15}" for c in cells)
                     + (f"  {row.tiles / row.seconds:8.1f}" if row.tiles else ""))  # fmt: skip
    return "\n".join(lines)


def choose(sets: Sequence[Pictures], trials: Sequence[Trial], explicit: bool) -> list[tuple[Pictures, Trial]]:
    """Which sets are scored at which tasks: those of their usual kind, or, asked for by name, what is possible.

    Raises:
      UsageError: nothing goes together.
    """
    chosen = []
    for one in sets:
        possible = [trial for trial in trials if one.suits(trial.task)]
        usual = [trial for trial in possible if kind_of(trial.task) in one.kinds()]
        chosen += [(one, trial) for trial in usual or (possible if explicit else [])]
    if not chosen:
        raise UsageError(f"none of the tasks {', '.join(t.label for t in trials)} can be scored on "
                         f"{', '.join(one.describe() for one in sets)}")  # fmt: skip
    return chosen


def run(options: argparse.Namespace) -> int:
    """`ipt evaluate`. Returns 0; wrong input is raised before anything is written."""
    names = [word.strip() for word in options.sets.split(",") if word.strip()]
    sets = find_sets(options.data, names)
    contender = open_contender(options)
    wanted = [word.strip() for word in options.tasks.split(",") if word.strip()]
    usual = [word for task in contender.tasks.values() for word in at_levels(task)]
    trials = [Trial.parse(word, contender.tasks) for word in wanted or usual]
    if options.noise_clip == "off":
        trials = [dataclasses.replace(trial, task=unclipped(trial.task)) for trial in trials]
    pairs = choose(sets, trials, bool(wanted))
    outputs = [Path(path) for path in (options.json, options.report) if path]
    for path in outputs:
        if not path.parent.is_dir():
            raise UsageError(f"{path}: there is no folder {path.parent}")
    for one in sets:
        tasks = [trial.label for other, trial in pairs if other is one]
        print(f"{one.describe()}; {', '.join(tasks) if tasks else 'none of the tasks are for it: left out'}", flush=True)

    page = None
    if options.report:
        from ipt_jax.evaluate.report import Report

        page = Report()
    rows = []
    for one, trial in pairs:
        row = Row(one, trial, [], 0, 0.0)
        contender.prepare(trial)
        began = time.perf_counter()
        pictures = itertools.islice(one.pictures(trial.task), options.limit or None)
        for result in contender.score(one, trial, pictures, options.seed):
            row.scores.append(result[0])
            row.tiles += contender.tiles(result, trial)
            row.seconds = time.perf_counter() - began
            if page is not None:
                page.add(row, result)
            if sys.stderr.isatty():
                print(f"\r{one.name} {trial.label}: {len(row.scores)} of {len(one.hq)}", end="\033[K", file=sys.stderr)
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)
        rows.append(row)
    print("\n" + table(rows))
    settings = contender.settings(options)
    print("\n" + "; ".join(f"{key} {value}" for key, value in settings.items() if not isinstance(value, dict)))
    if options.json:
        Path(options.json).write_text(json.dumps({**settings, "rows": [row.as_json() for row in rows]}, indent=1) + "\n")
        print(f"scores: {options.json}")
    if page is not None:
        Path(options.report).write_text(page.html(rows, settings))
        print(f"report: {options.report}")
    return 0


class Contender(abc.ABC):
    """What is scored: a model, or pictures that are there already."""

    tasks: dict[str, Task] = TASKS

    def __init__(self, options: argparse.Namespace):
        self.name: str = options.weights

    @abc.abstractmethod
    def restore(self, one: Pictures, trial: Trial) -> RestorePairs:
        """How inputs become results."""

    def prepare(self, trial: Trial) -> None:
        """Compiles what the trial needs, so that it is not counted as its time."""
        return

    def score(self, one: Pictures, trial: Trial, pictures: Iterable[Any], seed: int) -> Iterator[Result]:
        """Every picture's score, and the pictures."""
        for result in scored(self.restore(one, trial), pictures, trial.task, seed):
            yield dataclasses.replace(result[0], task=trial.label), *result[1:]

    def tiles(self, result: Result, trial: Trial) -> int:
        """Tiles that a picture took."""
        return 0

    def settings(self, options: argparse.Namespace) -> dict[str, Any]:
        """What the numbers depend on."""
        return {"weights": self.name, "seed": options.seed, "noise clip": options.noise_clip, "ipt_jax": __version__}


class Baseline(Contender):
    """The words `input` and `bicubic`."""

    def __init__(self, options: argparse.Namespace):
        super().__init__(options)
        self.tasks = {n: t for n, t in TASKS.items() if (t.scale > 1) == (options.weights == "bicubic")}

    def restore(self, one: Pictures, trial: Trial) -> RestorePairs:
        return lambda pairs: (baseline(pair.lq, trial.task) for pair in pairs)


class Outputs(Contender):
    """The words `outputs:DIR`: files restored by something else, in DIR, DIR/TASK, DIR/x2, or those in DIR/SET."""

    def __init__(self, options: argparse.Namespace):
        super().__init__(options)
        self._folder = Path(options.weights.removeprefix("outputs:")).expanduser()
        if not self._folder.is_dir():
            raise UsageError(f"--weights {options.weights}: there is no folder {self._folder}")

    def restore(self, one: Pictures, trial: Trial) -> RestorePairs:
        inner = [trial.label, *(f"{x}{trial.task.scale}" for x in "xX" if trial.task.scale > 1), ""]
        places = [self._folder / outer / name for outer in (one.name, "") for name in inner]
        place = next((p for p in places if p.is_dir() and picture_files(p)), None)
        if place is None:
            raise DataError(f"--weights {self.name}: no pictures for {one.name} {trial.label}; looked in "
                            + listed([str(p) for p in places], len(places)))  # fmt: skip
        found = match(one.hq, picture_files(place), str(place), "restored picture")

        def restore(pairs: Iterator[Degraded]) -> Iterator[np.ndarray]:
            for pair in pairs:
                output = read(found[pair.name])
                if output.shape != pair.hq.shape:
                    raise DataError(f"{found[pair.name]} is {output.shape[1]}x{output.shape[0]}; {trial.label} of "
                                    f"{pair.name} gives {pair.hq.shape[1]}x{pair.hq.shape[0]}")  # fmt: skip
                yield output

        return restore


class Weights(Contender):
    """A model: compiled once a task, whatever the pictures and sets."""

    def __init__(self, options: argparse.Namespace):
        super().__init__(options)
        from ipt_jax import load

        if options.batch < 1:
            raise UsageError(f"--batch {options.batch}: at least 1 tile a call")
        self.model: Restorer = load(options.weights, task=options.weights_tasks, heads=options.heads, raw=options.raw,
                                    dtype=options.dtype)  # fmt: skip
        self.tasks = dict(self.model.tasks)
        tile = self.model.model.tile
        if not 0 <= options.overlap < tile:
            raise UsageError(f"--overlap {options.overlap}: tiles of {tile} pixels can overlap by 0 to {tile - 1}")
        self._cut: dict[str, Any] = dict(protocol=options.protocol, overlap=options.overlap, ensemble=options.ensemble)
        self._batch = options.batch

    def restore(self, one: Pictures, trial: Trial) -> RestorePairs:
        return lambda pairs: self.model.restore_all((pair.lq for pair in pairs), trial.head, batch=self._batch, **self._cut)

    def prepare(self, trial: Trial) -> None:
        tile = self.model.model.tile
        np.asarray(self.model.bind(trial.head)(np.zeros((self._batch * self.model.devices, tile, tile, 3), np.float32)))

    def tiles(self, result: Result, trial: Trial) -> int:
        height, width = (size // trial.task.scale for size in result[1].shape[:2])
        return count_tiles(height, width, tile=self.model.model.tile, **self._cut)

    def settings(self, options: argparse.Namespace) -> dict[str, Any]:
        cut = {"protocol": options.protocol} | ({"overlap": options.overlap} if options.protocol == "blend" else {})
        return {**super().settings(options), **cut, "ensemble": "x8" if options.ensemble else "no", "dtype": options.dtype,
                "devices": self.model.devices, "programs": self.model.programs(),
                "provenance": dict(self.model.provenance)}  # fmt: skip


def open_contender(options: argparse.Namespace) -> Contender:
    """What the word after --weights names."""
    if options.weights in ("input", "bicubic"):
        return Baseline(options)
    return Outputs(options) if options.weights.startswith("outputs:") else Weights(options)
