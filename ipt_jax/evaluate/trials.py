"""Which tasks are scored, and at which strength."""

from __future__ import annotations

import dataclasses
from typing import Any

from ipt_jax.degradations.jpeg import Jpeg
from ipt_jax.degradations.noise import Noise
from ipt_jax.errors import UsageError
from ipt_jax.tasks import Task, similar_task

# The strengths at which a task is scored that draws its strength: sigma, JPEG quality.
LEVELS = {Noise: (15, 25, 30, 50), Jpeg: (10, 20, 40)}


@dataclasses.dataclass(frozen=True)
class Trial:
    """A task to score, and the task of the model that restores it.

    "denoise50@70" is noise of sigma 70, restored with the model's denoise50. A task that draws its
    strength for each crop, such as blind denoising, is scored at a fixed strength: "denoise@25",
    "jpeg@40".

    Attributes:
      label: the name in tables.
      head: name of the model's task.
      task: the task, with the degradation that is scored.
    """

    label: str
    head: str
    task: Task

    @property
    def noise_clipped(self) -> bool | None:
        """Whether noisy inputs are clipped to 0..255; None where the task makes no noise."""
        share = getattr(self.task.degrade, "clipped", None)
        return None if share is None else bool(share)

    @classmethod
    def parse(cls, text: str, known: dict[str, Task]) -> Trial:
        """Returns the trial of `TASK`, `TASK@SIGMA` for noise or `TASK@QUALITY` for JPEG.

        Raises:
          UsageError: there is no such task, the task has no strength, or the task draws its
            strength and none is given.
        """
        head, _, level = text.partition("@")
        if head not in known:
            raise UsageError(
                f"--tasks: there is no task {head!r}{similar_task(head, known)}; known: "
                f"{', '.join(known)}"
            )
        task = known[head]
        if not level:
            if isinstance(strength_of(task), tuple):
                raise UsageError(
                    f"--tasks {text}: this task draws its strength; name one, such as "
                    f"{', '.join(labels_of(task))}"
                )
            return cls(text, head, task)
        if strength_of(task) is None:
            raise UsageError(
                f"--tasks {text}: only a denoising or JPEG task can be scored at another strength"
            )
        noise = isinstance(task.degrade, Noise)
        try:
            fixed = Noise(float(level)) if noise else Jpeg(float(level))
        except ValueError:
            kind = "standard deviation" if noise else "JPEG quality"
            raise UsageError(f"--tasks {text}: {level!r} is no {kind}") from None
        return cls(text, head, Task(text, 1, fixed))


def strength_of(task: Task) -> Any:
    """Returns sigma of noise or quality of JPEG; None for other degradations.

    The result is a number, or the range from which the number is drawn.
    """
    if isinstance(task.degrade, Noise):
        return task.degrade.sigma
    return task.degrade.quality if isinstance(task.degrade, Jpeg) else None


def labels_of(task: Task) -> list[str]:
    """Returns the labels under which a task is scored if the user names none.

    A task that draws its strength has a label for each of `LEVELS`.
    """
    strength = strength_of(task)
    if not isinstance(strength, tuple):
        return [task.name]
    low, high = strength
    levels = [level for level in LEVELS[type(task.degrade)] if low <= level <= high]
    return [f"{task.name}@{level}" for level in levels] or [f"{task.name}@{high:g}"]
