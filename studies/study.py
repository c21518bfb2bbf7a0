"""The code of all studies: it trains variants of a run, scores them, and makes tables and plots.

The scores are of photographs that no variant was trained on.
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

from ipt_jax.cli.app import main as run_command
from ipt_jax.config.loading import load as load_config
from ipt_jax.data.sources.folder import Folder, list_pictures
from ipt_jax.data.sources.held_out import held_out_names
from ipt_jax.errors import DataError, RunError, UserError
from ipt_jax.images.decode import decode
from ipt_jax.images.sheet import save_png
from ipt_jax.run_folder import metrics_log
from ipt_jax.tasks import PAPER_TASKS
from ipt_jax.train.loop import pretrain

BASE = pathlib.Path(__file__).with_name("base.py")
# The number of photographs that are scored and not trained on.
HELD_OUT = 8
# The side of the centre crop of a photograph that is scored, in pixels.
SIDE = 256
# In dB. Variants that are closer to each other are trained with more seeds, because scores of
# different seeds differ by 0.1 and more.
CLOSE = 0.25


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to train.

    Attributes:
      name: its name in tables.
      overrides: changes of the config base.py, as `key=value`.
      share: the share of the training photographs that is used.
      after: the variant whose weights it starts from, or None.
      length: the number of steps, relative to the study's.
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
      name: the name of its files.
      question: the title of its plot.
      variants: the variants that are compared.
      scored: the tasks that are scored, as for `ipt evaluate`: TASK or TASK@SIGMA.
      against: the x axes of the loss: "samples", "seconds".
    """

    name: str
    question: str
    variants: tuple[Variant, ...]
    scored: tuple[str, ...] = tuple(PAPER_TASKS)
    against: tuple[str, ...] = ("samples",)


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of one run.

    Attributes:
      variant: the name of the variant.
      seed: the seed of the run.
      config: the overrides of the run.
      scores: PSNR-Y in dB by task.
      curve: `step`, `samples`, `seconds` and `l1`, the mean over tasks in 0..255.
    """

    variant: str
    seed: int
    config: tuple[str, ...]
    scores: dict[str, float]
    curve: dict[str, list[float]]

    @property
    def mean(self) -> float:
        """The mean score over tasks."""
        return float(np.mean(list(self.scores.values())))


@dataclasses.dataclass(frozen=True)
class StudyFolder:
    """The folder of photographs and runs of studies.

    The name of a run's folder is a hash of its settings, so that studies share runs.

    Attributes:
      folder: its path.
      steps: the number of steps of a run.
    """

    folder: pathlib.Path
    steps: int

    def photographs(self, share: float) -> pathlib.Path:
        """Returns the folder with a share of the training photographs."""
        return self.folder / "photographs" / f"train-{round(100 * share)}"

    @property
    def held_out(self) -> pathlib.Path:
        """The folder with the images that are scored."""
        return self.folder / "photographs" / "held-out"

    def settings(self, variant: Variant, seed: int) -> tuple[str, ...]:
        """Returns the overrides of a variant's run."""
        before = (f"init_from={self.workdir(variant.after, seed)}",) if variant.after else ()
        return (
            f"steps={max(1, round(self.steps * variant.length))}",
            f"seed={seed}",
            f"data.dir={self.photographs(variant.share)}",
            *variant.overrides,
            *before,
        )

    def workdir(self, variant: Variant, seed: int) -> pathlib.Path:
        """Returns the folder of a variant's run."""
        text = "\n".join(self.settings(variant, seed))
        return self.folder / "runs" / hashlib.sha256(text.encode()).hexdigest()[:12]


def split_photographs(photos: pathlib.Path, folder: StudyFolder, shares: Sequence[float]) -> None:
    """Splits photographs into images that are scored and shares of the others.

    The order is that of the hashes of the photographs' names.
    """
    try:
        names = list_pictures(str(photos), str(photos))
    except DataError as error:
        raise SystemExit(str(error)) from None
    if len(names) <= HELD_OUT:
        raise SystemExit(
            f"--photos {photos}: {len(names)} photographs; more than {HELD_OUT} are needed"
        )
    order = sorted(
        held_out_names(names, len(names)), key=lambda name: hashlib.sha256(name.encode()).digest()
    )
    scored, others = order[:HELD_OUT], order[HELD_OUT:]
    folder.held_out.mkdir(parents=True, exist_ok=True)
    for name in scored:
        image = decode((photos / name).read_bytes())
        top, left = (max(0, (side - SIDE) // 2) for side in image.shape[:2])
        save_png(
            folder.held_out / f"{pathlib.Path(name).stem}.png",
            image[top : top + SIDE, left : left + SIDE],
        )
    for share in {1.0, *shares}:
        links = folder.photographs(share)
        links.mkdir(parents=True, exist_ok=True)
        for name in others[: max(1, round(share * len(others)))]:
            link = links / name.replace("/", "_")
            if not link.is_symlink():
                link.symlink_to((photos / name).resolve())
    # Raises an error if the folder is unusable, before anything is trained.
    Folder(str(folder.photographs(1.0)))


def train_variant(variant: Variant, seed: int, folder: StudyFolder) -> pathlib.Path:
    """Trains a variant, and before it the variant that it starts from. Resumes an unfinished run.

    Returns:
      The folder of the run.
    """
    if variant.after is not None:
        train_variant(variant.after, seed, folder)
    workdir = folder.workdir(variant, seed)
    print(f"--- {variant.name}, seed {seed}: {workdir}", flush=True)
    config = load_config(str(BASE), list(folder.settings(variant, seed)))
    try:
        outcome = pretrain(config, str(workdir))
    except (UserError, RunError) as error:
        # For example, another study may be training this run at the moment.
        raise SystemExit(str(error)) from None
    if not outcome.finished:
        raise SystemExit("stopped; to resume, repeat the command")
    return workdir


def score_run(
    workdir: pathlib.Path, tasks: Sequence[str], held_out: pathlib.Path
) -> dict[str, float]:
    """Returns the PSNR-Y of those of the tasks that the run's model has."""
    entries = _read_config(workdir)["tasks"]
    known = {entry if isinstance(entry, str) else entry["name"] for entry in entries}
    scored = ",".join(task for task in tasks if task.partition("@")[0] in known)
    file = workdir / f"scores-{hashlib.sha256(scored.encode()).hexdigest()[:8]}.json"
    if not file.exists():
        arguments = [
            "evaluate",
            "--weights",
            str(workdir),
            "--data",
            str(held_out),
            "--tasks",
            scored,
        ]
        if run_command([*arguments, "--json", str(file)]):
            raise SystemExit(1)
    return {row["task"]: row["result"]["psnr_y"] for row in json.loads(file.read_text())["rows"]}


def read_curve(
    workdir: pathlib.Path, before: dict[str, list[float]] | None = None
) -> dict[str, list[float]]:
    """Returns the curve of a run, from its log.

    Args:
      workdir: the run's folder.
      before: the curve of the run that it started from; samples and seconds continue from there.
    """
    config = _read_config(workdir)
    found: dict[str, list[float]] = {"step": [], "samples": [], "seconds": [], "l1": []}
    step = 0
    seconds = before["seconds"][-1] if before else 0.0
    earlier = before["samples"][-1] if before else 0.0
    for line in metrics_log.read_lines(workdir / "metrics.jsonl"):  # type: ignore[arg-type]
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
    """Returns the mean L1 (0..255) over the tasks of a line of a log, or NaN if it has none."""
    losses = [value for key, value in line.items() if key.startswith("l1/") and value is not None]
    return float(np.mean(losses)) if losses else math.nan


def _read_config(workdir: pathlib.Path) -> dict[str, Any]:
    return json.loads((workdir / "config.json").read_text())["config"]


def find_close(results: Sequence[Result]) -> set[str]:
    """Returns the variants whose mean score is within CLOSE of another variant's.

    Only variants with the same tasks are compared.
    """
    ordered = sorted(results, key=lambda result: (tuple(result.scores), result.mean))
    near = (
        (a, b)
        for a, b in itertools.pairwise(ordered)
        if tuple(a.scores) == tuple(b.scores) and b.mean - a.mean < CLOSE
    )
    return {result.variant for pair in near for result in pair}


def format_table(results: Sequence[Result]) -> str:
    """Returns a table in Markdown with a row for each variant.

    The columns are the PSNR-Y of each task, the mean over tasks with half its range over seeds, and
    the number of seeds.
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


def draw_study(study: Study, results: Sequence[Result], file: pathlib.Path) -> None:
    """Draws the losses, and the mean score of each seed of each variant."""
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
    """Returns the mean of each value and at most `width` - 1 values before it."""
    return np.array([values[max(0, i - width + 1) : i + 1].mean() for i in range(len(values))])


def main(study: Study, arguments: Sequence[str] | None = None) -> int:
    """Runs a study from the command line."""
    parser = argparse.ArgumentParser(
        prog=f"python -m studies.{study.name}", description=study.question
    )
    parser.add_argument(
        "--photos", required=True, type=pathlib.Path, metavar="DIR", help="a folder of photographs"
    )
    parser.add_argument(
        "--out",
        default="runs/studies",
        type=pathlib.Path,
        metavar="DIR",
        help="the folder for runs, tables and plots (default: runs/studies)",
    )
    parser.add_argument(
        "--steps", type=int, default=600, metavar="N", help="steps of each run (default: 600)"
    )
    parser.add_argument(
        "--seeds",
        default="",
        metavar="A,B",
        help="seeds of each variant (default: 0, and also 1 and 2 for variants within "
        f"{CLOSE} dB of another)",
    )
    options = parser.parse_args(arguments)
    folder = StudyFolder(options.out.resolve(), options.steps)
    split_photographs(options.photos, folder, [variant.share for variant in study.variants])

    def result(variant: Variant, seed: int) -> Result:
        workdir = train_variant(variant, seed, folder)
        scores = score_run(workdir, study.scored, folder.held_out)
        before = read_curve(folder.workdir(variant.after, seed)) if variant.after else None
        overrides = _without_folders(folder.settings(variant, seed))
        return Result(variant.name, seed, overrides, scores, read_curve(workdir, before))

    seeds = [int(seed) for seed in options.seeds.split(",")] if options.seeds else [0]
    found = [result(variant, seed) for variant in study.variants for seed in seeds]
    again = find_close(found) if not options.seeds else set()
    found += [
        result(variant, seed)
        for variant in study.variants
        if variant.name in again
        for seed in (1, 2)
    ]
    text = format_table(found)
    file = folder.folder / f"{study.name}.json"
    described = {
        "question": study.question,
        "steps": options.steps,
        "runs": [dataclasses.asdict(result) for result in found],
    }
    file.write_text(json.dumps(described) + "\n")
    file.with_suffix(".md").write_text(text + "\n")
    draw_study(study, found, file.with_suffix(".png"))
    print(f"\n{study.question}\n\n{text}\n\n{file.with_suffix('.png')}")
    return 0


def _without_folders(overrides: Sequence[str]) -> tuple[str, ...]:
    """Returns the overrides with only the names of the machine's folders."""
    return tuple(
        f"{key}={pathlib.PurePath(value).name}"
        if key in ("data.dir", "init_from")
        else f"{key}={value}"
        for key, _, value in (text.partition("=") for text in overrides)
    )
