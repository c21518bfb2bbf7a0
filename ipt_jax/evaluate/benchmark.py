"""A benchmark: what is scored, on which sets and tasks; runs it and hands out the scores."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ipt_jax.errors import UsageError
from ipt_jax.evaluate.candidates import open_candidate
from ipt_jax.evaluate.results import Row
from ipt_jax.evaluate.scoring import unclipped
from ipt_jax.evaluate.sets import BenchmarkSet, find_sets, kind_of
from ipt_jax.evaluate.trials import Trial, at_levels


def table(rows: Sequence[Row]) -> str:
    """A table for the terminal: a line for each set and task, input -> result."""
    lines = [
        f"{'set':<10} {'task':<13} {'n':>3}  {'PSNR-Y':>15}  {'PSNR-RGB':>15}  {'SSIM-Y':>15}  "
        f"{'SSIM-RGB':>15}  {'tiles/s':>8}"
    ]
    for row in rows:
        b, a = row.mean.before, row.mean.after
        cells = [
            f"{b[m]:6.2f} -> {a[m]:5.2f}" if m.startswith("psnr") else f"{b[m]:.4f} -> {a[m]:.4f}"
            for m in ("psnr_y", "psnr_rgb", "ssim_y", "ssim_rgb")
        ]
        lines.append(
            f"{row.set.name:<10} {row.trial.label:<13} {len(row.scores):>3}  "
            + "  ".join(f"{c:>15}" for c in cells)
            + (f"  {row.tiles / row.seconds:8.1f}" if row.tiles else "")
        )
    return "\n".join(lines)


def choose(
    sets: Sequence[BenchmarkSet], trials: Sequence[Trial], explicit: bool
) -> list[tuple[BenchmarkSet, Trial]]:
    """Which sets are scored at which tasks: those of their usual kind, or, asked for by name, what
    is possible.

    Raises:
      UsageError: nothing goes together.
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


def run(options: argparse.Namespace) -> int:
    """`ipt evaluate`. Returns 0; wrong input is raised before anything is written."""
    names = [word.strip() for word in options.sets.split(",") if word.strip()]
    sets = find_sets(options.data, names)
    contender = open_candidate(options)
    wanted = [word.strip() for word in options.tasks.split(",") if word.strip()]
    usual = [word for name in contender.usual for word in at_levels(contender.tasks[name])]
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
        print(
            f"{one.describe()}; "
            f"{', '.join(tasks) if tasks else 'none of the tasks are for it: left out'}",
            flush=True,
        )

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
                print(
                    f"\r{one.name} {trial.label}: {len(row.scores)} of {len(one.hq)}",
                    end="\033[K",
                    file=sys.stderr,
                )
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)
        rows.append(row)
    print("\n" + table(rows))
    settings = contender.settings(options)
    print(
        "\n"
        + "; ".join(
            f"{key} {value}" for key, value in settings.items() if not isinstance(value, dict)
        )
    )
    if options.json:
        Path(options.json).write_text(
            json.dumps({**settings, "rows": [row.as_json() for row in rows]}, indent=1) + "\n"
        )
        print(f"scores: {options.json}")
    if page is not None:
        Path(options.report).write_text(page.html(rows, settings))
        print(f"report: {options.report}")
    return 0
