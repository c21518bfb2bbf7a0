"""What studies share: variants of one run, trained, scored on photographs that none of them saw,
tabulated and drawn.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ipt_jax.cli import app as cli
from ipt_jax.config import loading as configs
from ipt_jax.data.sources.folder import Folder, list_pictures
from ipt_jax.data.sources.held_out import held_out_names
from ipt_jax.errors import DataError, RunError, UserError
from ipt_jax.images.decode import decode
from ipt_jax.images.sheet import save_png
from ipt_jax.run_folder import metrics_log
from ipt_jax.tasks import PAPER_TASKS
from ipt_jax.train.loop import pretrain

BASE = pathlib.Path(__file__).with_name("base.py")
# Photographs kept for scoring
HELD_OUT = 8
# Of what is scored of each: its middle
SIDE = 256
# DB: variants nearer than that are trained with more seeds; these differ by 0.1 or more by
# themselves
CLOSE = 0.25


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to train.

    Attributes:
      name: what tables call it.
      overrides: `key=value`s on top of base.py.
      share: of the training photographs.
      after: the variant whose weights it starts with.
      length: of the study's steps; 0.5 trains half as long.
    """

    name: str
    overrides: tuple[str, ...] = ()
    share: float = 1.0
    after: Variant | None = None
    length: float = 1.0


@dataclasses.dataclass(frozen=True)
class Study:
    """A question, and the variants that answer it.

    Attributes:
      name: of its files.
      question: its title.
      variants: what is compared.
      scored: tasks of `ipt evaluate` (TASK or TASK@SIGMA) that are scored.
      against: what the loss is drawn against: "samples", "seconds".
    """

    name: str
    question: str
    variants: tuple[Variant, ...]
    scored: tuple[str, ...] = tuple(PAPER_TASKS)
    against: tuple[str, ...] = ("samples",)


@dataclasses.dataclass(frozen=True)
class Result:
    """One run: scores are PSNR-Y in dB by task, `curve` has `step`, `samples`, `seconds`, `l1`
    (mean over tasks, 0..255).
    """

    variant: str
    seed: int
    config: tuple[str, ...]
    scores: dict[str, float]
    curve: dict[str, list[float]]

    @property
    def mean(self) -> float:
        """Over tasks."""
        return float(np.mean(list(self.scores.values())))


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a study's photographs and runs lie. Runs have names made of their settings, so that
    studies share them.
    """

    folder: pathlib.Path
    steps: int

    def photographs(self, share: float) -> pathlib.Path:
        """A folder with that share of the training photographs."""
        return self.folder / "photographs" / f"train-{round(100 * share)}"

    @property
    def held_out(self) -> pathlib.Path:
        """The folder with what is scored."""
        return self.folder / "photographs" / "held-out"

    def settings(self, variant: Variant, seed: int) -> tuple[str, ...]:
        """The overrides of a variant's run."""
        before = (f"init_from={self.workdir(variant.after, seed)}",) if variant.after else ()
        return (
            f"steps={max(1, round(self.steps * variant.length))}",
            f"seed={seed}",
            f"data.dir={self.photographs(variant.share)}",
            *variant.overrides,
            *before,
        )

    def workdir(self, variant: Variant, seed: int) -> pathlib.Path:
        """The folder of a variant's run."""
        text = "\n".join(self.settings(variant, seed))
        return self.folder / "runs" / hashlib.sha256(text.encode()).hexdigest()[:12]


def prepare(photos: pathlib.Path, place: Place, shares: Sequence[float]) -> None:
    """Splits a folder of photographs: some to be scored, shares of the others (in the order of
    their names' hashes).
    """
    try:
        names = list_pictures(str(photos), str(photos))
    except DataError as error:
        raise SystemExit(str(error)) from None
    if len(names) <= HELD_OUT:
        raise SystemExit(
            f"--photos {photos}: {len(names)} pictures; more than {HELD_OUT} are needed"
        )
    order = sorted(
        held_out_names(names, len(names)), key=lambda name: hashlib.sha256(name.encode()).digest()
    )
    scored, others = order[:HELD_OUT], order[HELD_OUT:]
    place.held_out.mkdir(parents=True, exist_ok=True)
    for name in scored:
        image = decode((photos / name).read_bytes())
        top, left = (max(0, (side - SIDE) // 2) for side in image.shape[:2])
        save_png(
            place.held_out / f"{pathlib.Path(name).stem}.png",
            image[top : top + SIDE, left : left + SIDE],
        )
    for share in {1.0, *shares}:
        folder = place.photographs(share)
        folder.mkdir(parents=True, exist_ok=True)
        for name in others[: max(1, round(share * len(others)))]:
            link = folder / name.replace("/", "_")
            if not link.is_symlink():
                link.symlink_to((photos / name).resolve())
    # Says what is wrong with it before anything is trained
    Folder(str(place.photographs(1.0)))


def train(variant: Variant, seed: int, place: Place) -> pathlib.Path:
    """Trains a variant, and first what it starts with; goes on where it stopped. Returns its
    folder.
    """
    if variant.after is not None:
        train(variant.after, seed, place)
    folder = place.workdir(variant, seed)
    print(f"--- {variant.name}, seed {seed}: {folder}", flush=True)
    try:
        done = pretrain(configs.load(str(BASE), place.settings(variant, seed)), str(folder))
    # Such as a run of another study under way, which this one shares
    except (UserError, RunError) as error:
        raise SystemExit(str(error)) from None
    if not done.finished:
        raise SystemExit("stopped; the same command goes on")
    return folder


def score(folder: pathlib.Path, tasks: Sequence[str], held_out: pathlib.Path) -> dict[str, float]:
    """PSNR-Y by task, of those that the run's model has."""
    known = {
        entry if isinstance(entry, str) else entry["name"] for entry in _config(folder)["tasks"]
    }
    mine = [task for task in tasks if task.partition("@")[0] in known]
    file = folder / f"scores-{hashlib.sha256(','.join(mine).encode()).hexdigest()[:8]}.json"
    if not file.exists():
        arguments = [
            "evaluate",
            "--weights",
            str(folder),
            "--data",
            str(held_out),
            "--tasks",
            ",".join(mine),
        ]
        if cli.main([*arguments, "--json", str(file)]):
            raise SystemExit(1)
    return {row["task"]: row["result"]["psnr_y"] for row in json.loads(file.read_text())["rows"]}


def curve(
    folder: pathlib.Path, before: dict[str, list[float]] | None = None
) -> dict[str, list[float]]:
    """How a run went, from its log; samples and seconds are counted on from those of the run
    before.
    """
    config = _config(folder)
    found: dict[str, list[float]] = {"step": [], "samples": [], "seconds": [], "l1": []}
    step, seconds, earlier = (
        0,
        before["seconds"][-1] if before else 0.0,
        before["samples"][-1] if before else 0.0,
    )
    for line in metrics_log.read_lines(folder / "metrics.jsonl"):  # type: ignore[arg-type]
        if "loss" not in line:
            continue
        samples = (line["step"] - step) * config["batch_size"]
        step, seconds = line["step"], seconds + samples / line["samples_per_s"]
        for key, value in (
            ("step", step),
            ("samples", earlier + step * config["batch_size"]),
            ("seconds", seconds),
        ):
            found[key].append(round(value, 1))
        found["l1"].append(round(mean_l1(line), 4))
    return found


def mean_l1(line: Mapping[str, Any]) -> float:
    """The mean L1 (0..255) over the tasks that a line of a log has; NaN if it has none."""
    losses = [value for key, value in line.items() if key.startswith("l1/") and value is not None]
    return float(np.mean(losses)) if losses else math.nan


def _config(folder: pathlib.Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())["config"]


def close(results: Sequence[Result]) -> set[str]:
    """The variants that have another one nearer than CLOSE on the same tasks, by their first seeds'
    means.
    """
    ordered = sorted(results, key=lambda result: (tuple(result.scores), result.mean))
    near = (
        (a, b)
        for a, b in itertools.pairwise(ordered)
        if tuple(a.scores) == tuple(b.scores) and b.mean - a.mean < CLOSE
    )
    return {result.variant for pair in near for result in pair}


def table(results: Sequence[Result]) -> str:
    """Markdown: a row a variant, PSNR-Y of each task, their mean, and half the spread of the mean
    over seeds.
    """
    tasks = list(dict.fromkeys(task for result in results for task in result.scores))
    rows = [f"| PSNR-Y, dB | {' | '.join(tasks)} | mean | seeds |", "|---" * (len(tasks) + 3) + "|"]
    for name in dict.fromkeys(result.variant for result in results):
        mine = [result for result in results if result.variant == name]
        cells = [
            f"{np.mean([r.scores[task] for r in mine]):.2f}" if task in mine[0].scores else ""
            for task in tasks
        ]
        means = [result.mean for result in mine]
        spread = f" +- {(max(means) - min(means)) / 2:.2f}" if len(means) > 1 else ""
        rows.append(
            f"| {name} | {' | '.join(cells)} | {np.mean(means):.2f}{spread} | {len(means)} |"
        )
    return "\n".join(rows)


def draw(study: Study, results: Sequence[Result], file: pathlib.Path) -> None:
    """Loss against samples (or time), and the mean score of each variant with every seed as a
    point.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(study.against) + 4, 4), layout="constrained")
    *losses, scores = figure.subplots(1, len(study.against) + 1)
    for i, variant in enumerate(study.variants):
        mine = [result for result in results if result.variant == variant.name]
        for axes, key in zip(losses, study.against, strict=True):
            values = np.mean([result.curve["l1"] for result in mine], axis=0)
            axes.plot(
                np.mean([result.curve[key] for result in mine], axis=0),
                smooth(values),
                color=f"C{i}",
                label=variant.name,
            )
            axes.set(xlabel=key, ylabel="L1, mean over tasks (0..255)", yscale="log")
            axes.grid(alpha=0.3, which="both")
        scores.plot(
            [result.mean for result in mine], [i] * len(mine), "o", color=f"C{i}", alpha=0.7
        )
    losses[0].legend(fontsize=8)
    scores.set(xlabel="PSNR-Y, mean over tasks (dB)", yticks=range(len(study.variants)))
    scores.set_yticklabels([variant.name for variant in study.variants])
    scores.locator_params(axis="x", nbins=5)
    scores.invert_yaxis()
    scores.grid(alpha=0.3)
    figure.suptitle(study.question)
    figure.savefig(file, dpi=110)


def smooth(values: np.ndarray, width: int = 5) -> np.ndarray:
    """The mean of each value and those before it, `width` at most."""
    return np.array([values[max(0, i - width + 1) : i + 1].mean() for i in range(len(values))])


def main(study: Study, arguments: Sequence[str] | None = None) -> int:
    """Runs a study from the command line."""
    parser = argparse.ArgumentParser(
        prog=f"python -m studies.{study.name}", description=study.question
    )
    parser.add_argument(
        "--photos", required=True, type=pathlib.Path, metavar="DIR", help="photographs to train on"
    )
    parser.add_argument(
        "--out",
        default="runs/studies",
        type=pathlib.Path,
        metavar="DIR",
        help="runs, tables and plots",
    )
    parser.add_argument(
        "--steps", type=int, default=600, metavar="N", help="of each run (default: 600)"
    )
    parser.add_argument(
        "--seeds",
        default="",
        metavar="A,B",
        help="default: 0, and 1 and 2 for variants nearer than 0.25 dB",
    )
    options = parser.parse_args(arguments)
    place = Place(options.out.resolve(), options.steps)
    prepare(options.photos, place, [variant.share for variant in study.variants])

    def result(variant: Variant, seed: int) -> Result:
        folder = train(variant, seed, place)
        scores = score(folder, study.scored, place.held_out)
        before = curve(place.workdir(variant.after, seed)) if variant.after else None
        return Result(
            variant.name, seed, _shown(place.settings(variant, seed)), scores, curve(folder, before)
        )

    seeds = [int(seed) for seed in options.seeds.split(",")] if options.seeds else [0]
    found = [result(variant, seed) for variant in study.variants for seed in seeds]
    again = close(found) if not options.seeds else set()
    found += [
        result(variant, seed)
        for variant in study.variants
        if variant.name in again
        for seed in (1, 2)
    ]
    text = table(found)
    file = place.folder / f"{study.name}.json"
    described = {
        "question": study.question,
        "steps": options.steps,
        "runs": [dataclasses.asdict(result) for result in found],
    }
    file.write_text(json.dumps(described) + "\n")
    file.with_suffix(".md").write_text(text + "\n")
    draw(study, found, file.with_suffix(".png"))
    print(f"\n{study.question}\n\n{text}\n\n{file.with_suffix('.png')}")
    return 0


def _shown(overrides: Sequence[str]) -> tuple[str, ...]:
    """Overrides without the machine's folders."""
    return tuple(
        f"{key}={pathlib.PurePath(value).name}"
        if key in ("data.dir", "init_from")
        else f"{key}={value}"
        for key, _, value in (text.partition("=") for text in overrides)
    )
