"""A benchmark: scores a candidate on benchmark sets, and writes tables, JSON and the report."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ipt_jax import messages
from ipt_jax.errors import DataError, UsageError
from ipt_jax.evaluate.candidates import Candidate
from ipt_jax.evaluate.inputs import InputFolder
from ipt_jax.evaluate.niqe import Niqe
from ipt_jax.evaluate.parts import join_parts, write_part
from ipt_jax.evaluate.report import Report
from ipt_jax.evaluate.results import Row, format_rows
from ipt_jax.evaluate.scoring import (
    NIQE,
    BenchmarkImage,
    Blind,
    is_large_enough,
    make_lq,
    unclipped,
)
from ipt_jax.evaluate.sets import BenchmarkSet, kind_of
from ipt_jax.evaluate.trials import Trial, labels_of
from ipt_jax.messages import printable, say
from ipt_jax.shards import Shard
from ipt_jax.versions import __version__


@dataclasses.dataclass(frozen=True)
class BenchmarkSettings:
    """What is scored, and where the scores are written.

    Attributes:
      tasks: labels of the tasks; empty for the usual tasks of the candidate.
      seed: seed of the noise and of synthetic rain.
      clip_noise: whether noisy inputs are clipped to 0..255.
      limit: number of images per set; 0 for all.
      json: the file for all scores; None for no file.
      save_inputs: the folder for the degraded inputs; None for no folder.
      report: the file for the HTML report; None for no file.
      shard: the part of the images that is scored; the JSON file is then a part for `merge_parts`,
        which also writes the report. None for all images.
      niqe: the file with NIQE's parameters; None where NIQE is not computed.
    """

    tasks: Sequence[str] = ()
    seed: int = 0
    clip_noise: bool = True
    limit: int = 0
    json: str | None = None
    save_inputs: str | None = None
    report: str | None = None
    shard: Shard | None = None
    niqe: str | None = None


def choose_trials(
    sets: Sequence[BenchmarkSet], trials: Sequence[Trial], explicit: bool
) -> list[tuple[BenchmarkSet, Trial]]:
    """Returns the tasks at which each set is scored.

    Args:
      sets: the sets.
      trials: the tasks.
      explicit: whether the user named the tasks. If so, a set for which none of them is usual is
        scored at those that are possible.

    Raises:
      UsageError: no set can be scored at any of the tasks.
    """
    chosen = []
    for one in sets:
        possible = [trial for trial in trials if one.suits(trial.task)]
        usual = [trial for trial in possible if kind_of(trial.task) in one.kinds()]
        chosen += [(one, trial) for trial in usual or (possible if explicit else [])]
    if not chosen:
        raise UsageError(
            f"none of the tasks {', '.join(t.label for t in trials)} can be scored on "
            f"{', '.join(one.describe() for one in sets)}"
        )
    return chosen


def run_benchmark(
    candidate: Candidate, sets: Sequence[BenchmarkSet], settings: BenchmarkSettings
) -> list[Row]:
    """Scores a candidate on sets; prints a table, and writes the JSON file and the report.

    Raises:
      UsageError: a task or an output file is not valid; nothing was scored.
      DataError: an image cannot be read or scored.
    """
    if settings.shard is not None and (settings.save_inputs or not settings.json):
        raise UsageError(
            "--shard needs --json FILE for its part, and goes without --save-inputs, which a run "
            "without weights writes: --weights input"
        )
    pairs = choose_trials(sets, _trials(candidate, settings), bool(settings.tasks))
    _check_folders(settings.json, settings.report)
    for one in sets:
        labels = [trial.label for other, trial in pairs if other is one]
        say(
            f"{one.describe()}; "
            f"{', '.join(labels) or 'skipped, because none of the tasks suits the set'}"
        )
    report = Report() if settings.report else None
    blind = {NIQE: Niqe(settings.niqe)} if settings.niqe else {}
    inputs = InputFolder(settings.save_inputs) if settings.save_inputs else None
    rows = [
        _score_set(candidate, one, trial, settings, report, inputs, blind) for one, trial in pairs
    ]
    described = {
        "weights": candidate.name,
        "seed": settings.seed,
        "noise clip": "on" if settings.clip_noise else "off",
        "ipt_jax": __version__,
        **({"niqe": Path(settings.niqe).name} if settings.niqe else {}),
        **candidate.settings(),
    }
    if settings.shard is not None:
        assert settings.json, "checked above"
        names = [_names(one, trial, settings) for one, trial in pairs]
        identity = {"fingerprint": candidate.fingerprint(), "limit": settings.limit}
        write_part(settings.json, settings.shard, described, identity, rows, names, report)
        scored = sum(len(row.scores) for row in rows)
        say(f"shard {settings.shard}: {scored} images scored; part: {settings.json}")
        return rows
    write_results(rows, described, settings.json, settings.report, report)
    if settings.save_inputs:
        say(f"inputs: {settings.save_inputs}")
    return rows


def write_results(
    rows: Sequence[Row],
    described: Mapping[str, Any],
    json_file: str | None,
    report_file: str | None,
    report: Report | None,
) -> None:
    """Prints the table, and writes the JSON file and the report.

    Args:
      rows: the scores.
      described: what was scored, and the settings.
      json_file, report_file: the files; None for no file.
      report: the images of the report.
    """
    say("\n" + format_rows(rows))
    plain = {key: value for key, value in described.items() if not isinstance(value, dict)}
    say("\n" + "; ".join(f"{key} {printable(value)}" for key, value in plain.items()))
    if json_file:
        scores = {**described, "rows": [row.as_json() for row in rows]}
        Path(json_file).write_text(json.dumps(scores, indent=1) + "\n")
        say(f"scores: {json_file}")
    if report is not None and report_file:
        Path(report_file).write_text(report.html(rows, described))
        say(f"report: {report_file}")


def merge_parts(files: Sequence[str], json_file: str | None, report_file: str | None) -> list[Row]:
    """Joins the parts that all shards of an evaluation wrote; the results are those of one run.

    Only the seconds, which are summed, are not.

    Args:
      files: the parts.
      json_file, report_file: as in `BenchmarkSettings`.

    Raises:
      DataError: a file is no part, parts do not belong together, or one is missing; nothing was
        written.
      UsageError: a report is wanted, but the parts were made without `--report`.
    """
    _check_folders(json_file, report_file)
    merged = join_parts(files, with_report=bool(report_file))
    write_results(merged.rows, merged.described, json_file, report_file, merged.report)
    return merged.rows


def _check_folders(*files: str | None) -> None:
    for path in (Path(name) for name in files if name):
        if not path.parent.is_dir():
            raise UsageError(f"{path}: there is no folder {path.parent}")


def _names(one: BenchmarkSet, trial: Trial, settings: BenchmarkSettings) -> list[str]:
    """Returns the names of the images that all shards together score."""
    return one.names(trial.task)[: settings.limit or None]


def _trials(candidate: Candidate, settings: BenchmarkSettings) -> list[Trial]:
    usual = [label for name in candidate.usual for label in labels_of(candidate.tasks[name])]
    trials = [Trial.parse(label, candidate.tasks) for label in settings.tasks or usual]
    if settings.clip_noise:
        return trials
    return [dataclasses.replace(trial, task=unclipped(trial.task)) for trial in trials]


def _score_set(
    candidate: Candidate,
    one: BenchmarkSet,
    trial: Trial,
    settings: BenchmarkSettings,
    report: Report | None,
    inputs: InputFolder | None,
    blind: Blind,
) -> Row:
    """Returns the scores of a set at a task; adds its images to the report, saves its inputs."""
    row = Row(one.summary, trial.label, trial.noise_clipped, [], 0, 0.0)
    wanted = range(len(_names(one, trial, settings)))
    if settings.shard is not None:
        wanted = wanted[settings.shard.number - 1 :: settings.shard.count]
    candidate.prepare(trial)
    began = time.perf_counter()

    def large_enough() -> Iterator[BenchmarkImage]:
        for image in one.pictures(trial.task, wanted):
            if is_large_enough(image, trial.task):
                if inputs is not None:
                    lq, _ = make_lq(image, trial.task, settings.seed)
                    inputs.save(one.name, trial.label, image.name, lq)
                yield image
            else:
                row.too_small.append(image.name)

    for result in candidate.score(one, trial, large_enough(), settings.seed, blind):
        row.scores.append(result[0])
        row.tiles += candidate.tiles(result, trial)
        row.seconds = time.perf_counter() - began
        if report is not None:
            report.add(row, result)
        _show_progress(f"{printable(one.name)} {trial.label}: {len(row.scores)} of {len(wanted)}")
    _show_progress("")
    if not row.scores and settings.shard is None:
        raise DataError(f"{one.name}: all images are too small for {trial.label}")
    return row


def _show_progress(text: str) -> None:
    """Replaces the last line of a terminal."""
    stream = messages.stderr()
    if stream.isatty():
        stream.write(f"\r{text}\033[K")
        stream.flush()
