"""Tasks to score, and at which strength."""

from __future__ import annotations

import dataclasses
from typing import Any

from ipt_jax.degradations.jpeg import Jpeg
from ipt_jax.degradations.noise import Noise
from ipt_jax.errors import UsageError
from ipt_jax.messages import nearest
from ipt_jax.tasks import Task


@dataclasses.dataclass(frozen=True)
class Trial:
    """A task to score, and the model's task that is used for it: "denoise50@70" is sigma 70 with
    the one for 50.

    A task whose strength is drawn for each crop, such as blind denoising, is scored at a fixed one:
    "denoise@25", "jpeg@40".
    """

    label: str
    head: str
    task: Task

    @classmethod
    def parse(cls, text: str, known: dict[str, Task]) -> Trial:
        """A trial from `TASK`, `TASK@SIGMA` for noise or `TASK@QUALITY` for JPEG.

        Raises:
          UsageError: no such task, a level for something that has none, or none for a task that
            draws it.
        """
        head, _, level = text.partition("@")
        if head not in known:
            raise UsageError(
                f"--tasks: there is no task {head!r}{nearest(head, known)}; there is "
                f"{', '.join(known)}"
            )
        task = known[head]
        if not level:
            if isinstance(strength(task), tuple):
                raise UsageError(
                    f"--tasks {text}: this task draws its strength; name one, such as "
                    f"{', '.join(at_levels(task))}"
                )
            return cls(text, head, task)
        kind = "standard deviation" if isinstance(task.degrade, Noise) else "JPEG quality"
        if strength(task) is None:
            raise UsageError(
                f"--tasks {text}: only a denoising or JPEG task can be scored at another strength"
            )
        try:
            fixed = Noise(float(level)) if isinstance(task.degrade, Noise) else Jpeg(float(level))
        except ValueError:
            raise UsageError(f"--tasks {text}: {level!r} is no {kind}") from None
        return cls(text, head, Task(text, 1, fixed))


LEVELS = {Noise: (15, 25, 30, 50), Jpeg: (10, 20, 40)}


def strength(task: Task) -> Any:
    """Sigma of noise, quality of JPEG: a number, or the range that it is drawn from; None for other
    degradations.
    """
    degrade = task.degrade
    return (
        degrade.sigma
        if isinstance(degrade, Noise)
        else degrade.quality
        if isinstance(degrade, Jpeg)
        else None
    )


def at_levels(task: Task) -> list[str]:
    """What is scored of a task if none is asked for: itself, or "TASK@LEVEL"s where it draws its
    strength.
    """
    if not isinstance(strength(task), tuple):
        return [task.name]
    low, high = strength(task)
    return [
        f"{task.name}@{level}" for level in LEVELS[type(task.degrade)] if low <= level <= high
    ] or [f"{task.name}@{high:g}"]
