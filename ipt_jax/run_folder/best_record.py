"""`best.json`: the evaluations of a run by one metric. A damaged file is rebuilt from the log."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from ipt_jax.log import logger
from ipt_jax.run_folder.folder import BEST
from ipt_jax.run_folder.metrics_log import HELD_OUT, read_run_lines
from ipt_jax.run_folder.records import DamagedRecord, decode_record, encode_record
from ipt_jax.storage import replace_text

# (step, value) of each evaluation, in order.
Evaluations = list[tuple[int, float]]


def score_of(metric: str, scores: Mapping[str, Mapping[str, float]]) -> float:
    """Returns the value by which an evaluation is compared with others.

    Args:
      metric: "TASK/psnr_y" for one task, "psnr_y" for the mean over the tasks.
      scores: `{task: {metric: value}}`.

    Raises:
      KeyError: there is no such task or metric.
    """
    task, _, name = metric.rpartition("/")
    return float(np.mean([scores[one][name] for one in ([task] if task else list(scores))]))


def best_of(evaluations: Sequence[tuple[int, float]]) -> int | None:
    """Returns the step of the best evaluation, the first of equal ones; None if there is none.

    A value that is not a number is worse than any other.
    """

    def quality(one: tuple[int, float]) -> tuple[float, int]:
        step, value = one
        return -math.inf if math.isnan(value) else value, -step

    return max(evaluations, key=quality)[0] if evaluations else None


def write_best(folder: epath.Path, metric: str, evaluations: Evaluations) -> None:
    """Writes the file for at least one evaluation. Raises OSError if that fails."""
    step = best_of(evaluations)
    content = {
        "metric": metric,
        "step": step,
        "value": dict(evaluations).get(step or 0),
        "evaluations": evaluations,
    }
    replace_text(folder / BEST, encode_record(content))


def read_best(folder: epath.Path, metric: str) -> Evaluations:
    """Returns the evaluations by a metric, none if the run recorded none.

    If the file is damaged, they are taken from the metrics log, which is logged as a warning.
    """
    recorded = _read(folder, metric)
    return recorded[1] if recorded is not None and recorded[0] == metric else []


def best_step(folder: epath.Path, metric: str = "") -> int | None:
    """Returns the step of a run's best checkpoint, or None if the run records none.

    Args:
      folder: the run's folder.
      metric: the config's `evaluate.best`, by which a damaged file is rebuilt.
    """
    recorded = _read(folder, metric)
    return best_of(recorded[1]) if recorded is not None else None


def _read(folder: epath.Path, metric: str) -> tuple[str, Evaluations] | None:
    """Returns the metric and the evaluations, from the file or the log; None without a file."""
    file = folder / BEST
    if not file.exists():
        return None
    try:
        return _checked(decode_record(file.read_bytes()))
    except (DamagedRecord, OSError) as error:
        evaluations = _from_log(folder, metric) if metric else []
        logger.warning(
            "%s is damaged (%s); its evaluations are taken from the metrics log, which has %d",
            file,
            error,
            len(evaluations),
        )
        return metric, evaluations


def _checked(content: Mapping[str, Any]) -> tuple[str, Evaluations]:
    """Returns the metric and the evaluations of a record. Raises DamagedRecord."""
    try:
        metric = content["metric"]
        evaluations = [(int(step), float(value)) for step, value in content["evaluations"]]
        # Records without a checksum are compared with what follows from their evaluations.
        step = best_of(evaluations)
        follows = [step, dict(evaluations)[step or 0]]
        # As text, because a value may be NaN.
        fits = json.dumps(follows) == json.dumps([content["step"], content["value"]])
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise DamagedRecord(f"it is not a record of evaluations: {error!r}") from None
    if not isinstance(metric, str) or not fits:
        raise DamagedRecord("its step and value are not those of its evaluations")
    return metric, evaluations


def _from_log(folder: epath.Path, metric: str) -> Evaluations:
    """Returns the evaluations that a run's metrics log has by a metric."""
    found: dict[int, float] = {}
    for line in read_run_lines(folder):
        scores: dict[str, dict[str, float]] = {}
        for key, value in line.items():
            if key.startswith(f"{HELD_OUT}/") and key.count("/") > 1:
                task, _, name = key.removeprefix(f"{HELD_OUT}/").rpartition("/")
                scores.setdefault(task, {})[name] = math.nan if value is None else value
        try:
            value = score_of(metric, scores) if scores else math.nan
        except KeyError:
            continue
        # A value that is not finite is logged as null and cannot be recovered.
        if math.isfinite(value):
            found[line["step"]] = value
    return sorted(found.items())
