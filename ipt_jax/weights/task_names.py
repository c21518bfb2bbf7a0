"""Which tasks weights are for: tasks from names, and names from the scales of the tails."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ipt_jax.degradations.bicubic import Bicubic
from ipt_jax.degradations.noise import Noise
from ipt_jax.degradations.paired import Paired
from ipt_jax.errors import WeightsError
from ipt_jax.tasks import PAPER_TASKS, TASKS, Task


def task_from_name(name: str, scale: int) -> Task:
    """Returns the task that a name stands for.

    This is the task of the table, noise for `denoise<sigma>`, bicubic for `sr<scale>`, and else a
    task that needs pairs.

    Args:
      name: name of the task.
      scale: scale of its tail.

    Raises:
      WeightsError: the table has a task of this name with another scale.
    """
    if name in TASKS:
        if TASKS[name].scale != scale:
            raise WeightsError(
                f"task {name!r} is for x{TASKS[name].scale}; the tail in the file is for x{scale}"
            )
        return TASKS[name]
    sigma = re.fullmatch(r"denoise(\d+)", name)
    if sigma and scale == 1:
        return Task(name, scale, Noise(float(sigma[1])))
    bicubic = scale > 1 and name == f"sr{scale}"
    return Task(name, scale, Bicubic(scale) if bicubic else Paired(scale))


def names_from_scales(scales: Sequence[int], task: str | None) -> list[str]:
    """Returns the names of tasks with these scales.

    Args:
      scales: scale of each tail.
      task: the names, comma-separated; None where the scales tell them. These are the scales of the
        paper's six tasks, or different scales above 1.

    Raises:
      WeightsError: the names do not fit the scales, or they are needed and missing.
    """
    if task is not None:
        return _given_names(scales, [word.strip() for word in task.split(",")])
    if list(scales) == [TASKS[name].scale for name in PAPER_TASKS]:
        return list(PAPER_TASKS)
    if len(set(scales)) == len(scales) and 1 not in scales:
        return [f"sr{scale}" for scale in scales]
    example = ",".join(f"sr{scale}" if scale > 1 else "denoise50" for scale in scales)
    raise WeightsError(
        f"the shapes do not tell the tasks: tails for {_listed_scales(scales)}; name them in that "
        f"order, e.g. --task {example}"
    )


def _given_names(scales: Sequence[int], given: list[str]) -> list[str]:
    if len(given) != len(scales):
        raise WeightsError(
            f"--task names {len(given)} tasks, but there are {len(scales)} tails, for "
            f"{_listed_scales(scales)}"
        )
    if len(set(given)) != len(given) or not all(word.isidentifier() for word in given):
        raise WeightsError(f"--task {','.join(given)}: each name must be a word and appear once")
    for name, scale in zip(given, scales, strict=True):
        task_from_name(name, scale)
    return given


def _listed_scales(scales: Sequence[int]) -> str:
    return ", ".join(f"x{scale}" for scale in scales)
