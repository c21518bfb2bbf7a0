"""Compares two files of `ipt evaluate --json`: mean differences with intervals, image by image."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from ipt_jax.errors import UsageError
from ipt_jax.messages import listed, printable
from ipt_jax.metrics import METRICS

RESAMPLES = 10_000
CONFIDENCE = 0.95
# What decides which inputs are made. Both files must agree in it.
SETTINGS = ("seed", "noise clip")
# The inputs of both files have the same scores to this accuracy, in dB or as SSIM.
SAME_INPUT = 1e-4


class Difference(NamedTuple):
    """How much better the second file is at a set, a task and a metric.

    Attributes:
      images: number of images that have a finite score in both files.
      mean: mean over the images of second - first.
      low, high: the interval of the mean; NaN for less than two images.
    """

    set: str
    task: str
    metric: str
    images: int
    mean: float
    low: float
    high: float


def paired_interval(differences: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Returns the 95 % percentile interval of the mean by the bootstrap over images.

    The images are taken as a sample of those that a set stands for. The same seed gives the same
    interval, and the negative differences give the negative interval. NaN for less than two.
    """
    if len(differences) < 2:
        return float("nan"), float("nan")
    found = stats.bootstrap(
        (np.asarray(differences, np.float64),),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def compare_files(first: Path, second: Path, seed: int = 0) -> list[Difference]:
    """Returns the differences second - first at the sets and tasks that both files have.

    Args:
      first, second: files of `ipt evaluate --json`.
      seed: seed of the resamples.

    Raises:
      UsageError: a file is not one of `ipt evaluate --json`, no set and task is in both, or the
        files were not scored on the same inputs; the message says where they differ.
    """
    ours, theirs = _read(first), _read(second)
    for key in SETTINGS:
        if ours.get(key) != theirs.get(key):
            raise UsageError(
                f"{first} and {second} are not comparable: {key} is {ours.get(key)} and "
                f"{theirs.get(key)}"
            )
    rows, others = _by_place(ours), _by_place(theirs)
    common = [place for place in rows if place in others]
    if not common:
        raise UsageError(
            f"{first} and {second} have no set and task in common: {_places(rows)}; "
            f"{_places(others)}"
        )
    for place in common:
        wrong = _unlike(rows[place]["scores"], others[place]["scores"])
        if wrong:
            raise UsageError(
                f"{first} and {second} are not comparable: {place[0]} {place[1]}: {wrong}"
            )
    return [
        _difference(place, metric, rows[place]["scores"], others[place]["scores"], seed)
        for place in common
        for metric in METRICS
    ]


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
        for row in found["rows"]:
            for score in row["scores"]:
                _ = (row["set"], row["task"], score["picture"], score["input"], score["result"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file}: it is not a file of ipt evaluate --json ({error!r})") from None
    return dict(found)


def _by_place(found: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(str(row["set"]), str(row["task"])): row for row in found["rows"]}


def _places(rows: dict[tuple[str, str], Any]) -> str:
    return listed([printable(" ".join(place)) for place in rows])


def _unlike(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    """Returns in words why two lists of scores have different inputs; "" if they do not."""
    names, others = ([score["picture"] for score in one] for one in (ours, theirs))
    if names != others:
        alone = sorted(set(names) ^ set(others))
        return f"other images: {listed([printable(name) for name in alone]) or 'another order'}"
    for a, b in zip(ours, theirs):
        for metric in METRICS:
            x, y = (_number(one["input"].get(metric)) for one in (a, b))
            if not (x == y or abs(x - y) <= SAME_INPUT or np.isnan([x, y]).all()):
                return (
                    f"another input of {printable(a['picture'])}: {metric} is {x:.4f} and {y:.4f}"
                )
    return ""


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _difference(
    place: tuple[str, str],
    metric: str,
    ours: list[dict[str, Any]],
    theirs: list[dict[str, Any]],
    seed: int,
) -> Difference:
    values = [
        _number(b["result"].get(metric)) - _number(a["result"].get(metric))
        for a, b in zip(ours, theirs)
    ]
    finite = [value for value in values if np.isfinite(value)]
    mean = float(np.mean(finite)) if finite else float("nan")
    return Difference(*place, metric, len(finite), mean, *paired_interval(finite, seed))


def difference_lines(found: Sequence[Difference], metrics: Sequence[str]) -> Iterator[str]:
    """Yields a table of the differences at these metrics."""
    yield f"{'set':<10} {'task':<13} {'metric':<9} {'n':>3} {'mean':>9}  95 % interval"
    for one in found:
        if one.metric in metrics:
            yield (
                f"{printable(one.set):<10} {one.task:<13} {one.metric:<9} {one.images:>3} "
                f"{one.mean:>+9.4f}  {one.low:+.4f} to {one.high:+.4f}"
            )
