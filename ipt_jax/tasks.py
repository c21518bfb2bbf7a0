"""The table of tasks: the only place where a task is defined.

A task turns a clean picture (hq) into a degraded one (lq) and asks for the way back. Heads, tails,
embeddings, the pipeline, the loss and the evaluator all read this table, so a new task is one entry
here, or one `{name, ...}` dict in a config.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from ipt_jax.degradations.bicubic import Bicubic
from ipt_jax.degradations.blur import GaussianBlur, KernelBlur, MotionBlur
from ipt_jax.degradations.chain import Chain, OneOf
from ipt_jax.degradations.jpeg import Jpeg
from ipt_jax.degradations.noise import Noise
from ipt_jax.degradations.paired import Paired
from ipt_jax.degradations.rain import Rain, RainFolder
from ipt_jax.messages import nearest


class Degradation(Protocol):
    """A pure, picklable function of (picture, generator)."""

    @property
    def margin(self) -> int:
        """lq pixels that a crop needs on every side to be what a crop of the whole degraded picture
        would be.
        """

    @property
    def rounded(self) -> bool:
        """Whether lq is uint8; else it is float32 in 0..255."""

    def __call__(self, hq: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """hq uint8 `[H, W, 3]` -> lq `[H / scale, W / scale, 3]`."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One restoration task.

    Attributes:
      name: names the task's head, tail and embedding, its part of a batch and its metrics.
      scale: side of hq over side of lq.
      degrade: makes lq of hq.
    """

    name: str
    scale: int
    degrade: Degradation

    @property
    def border(self) -> int:
        """Pixels of hq left out on every side when a result is scored: the scale for SR, none at
        x1.
        """
        return self.scale if self.scale > 1 else 0


# The paper's six, in the order of the authors' six-task file: the default of configs.
PAPER_TASKS = ("sr2", "sr3", "sr4", "derain", "denoise30", "denoise50")

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("sr2", 2, Bicubic(2)),
        Task("sr3", 3, Bicubic(3)),
        Task("sr4", 4, Bicubic(4)),
        Task("derain", 1, Rain()),
        Task("denoise30", 1, Noise(30.0)),
        Task("denoise50", 1, Noise(50.0)),
        # Beyond the paper: what photographs from phones and the web need. Each crop draws its own
        # strength.
        Task("denoise", 1, Noise((0.0, 55.0), clipped=0.5, clean=0.05)),
        Task("jpeg", 1, Jpeg((10, 95), clean=0.05)),
        Task(
            "photo2",
            2,
            Chain((GaussianBlur((0.2, 1.0)), Bicubic(2), Noise((0.0, 10.0)), Jpeg((50, 95)))),
        ),
        Task("deblur", 1, OneOf((GaussianBlur((0.5, 3.0)), MotionBlur((3, 15), (0, 180))))),
    )
}

# What a config's `{name, degradation, ...}` dict can ask for; the other keys are the degradation's
# own fields.
DEGRADATIONS: dict[str, type] = {
    "bicubic": Bicubic,
    "noise": Noise,
    "rain": Rain,
    "rain_folder": RainFolder,
    "gaussian_blur": GaussianBlur,
    "motion_blur": MotionBlur,
    "kernel_blur": KernelBlur,
    "jpeg": Jpeg,
    # Its `steps` are a list of {degradation, ...} dicts
    "chain": Chain,
    # And so are its `choices`
    "one_of": OneOf,
    # None: for data.source=pairs
    "pairs": Paired,
}

# Degradations made of others, and the field that holds these.
PARTS = {"chain": "steps", "one_of": "choices"}


def make_task(entry: str | Mapping[str, Any]) -> Task:
    """A task from a config's entry: a name of the table, or a dict of `name`, `degradation` and its
    fields.

    `{"name": "denoise70", "degradation": "noise", "sigma": 70}` is a new task.

    Raises:
      ValueError: no such task, degradation or field; the message names the nearest known one.
    """
    if isinstance(entry, str):
        if entry not in TASKS:
            raise ValueError(
                f"unknown task {entry!r}{nearest(entry, TASKS)}; known: {', '.join(TASKS)}"
            )
        return TASKS[entry]
    fields = dict(entry)
    name, kind = fields.pop("name", None), fields.pop("degradation", None)
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(
            f"a task's name must be a word of letters, digits and _, not {name!r}, in {dict(entry)}"
        )
    try:
        degrade = make_degradation(kind, fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"task {name!r}: {error}") from None
    return Task(name, getattr(degrade, "scale", 1), degrade)


def make_degradation(kind: Any, fields: Mapping[str, Any]) -> Degradation:
    """A degradation from its name and fields.

    Raises:
      ValueError: no such degradation or field (the nearest known one is named), or a value that
        does not fit.
      TypeError: a field without a default is missing.
    """
    if kind not in DEGRADATIONS:
        raise ValueError(
            f"unknown degradation {kind!r}{nearest(str(kind), DEGRADATIONS)}; known: "
            f"{', '.join(DEGRADATIONS)}"
        )
    known = [field.name for field in dataclasses.fields(DEGRADATIONS[kind])]
    for field in fields:
        if field not in known:
            raise ValueError(
                f"{kind!r} has no field {field!r}{nearest(field, known)}; it has {', '.join(known)}"
            )
    parts = PARTS.get(str(kind))
    if parts is None:
        return DEGRADATIONS[kind](**fields)
    given = fields.get(parts, ())
    if not isinstance(given, (list, tuple)) or not all(isinstance(part, Mapping) for part in given):
        raise ValueError(
            f"{kind!r} needs {parts}, a list of {{degradation, ...}} dicts, not {given!r}"
        )
    made = []
    for part in given:
        rest = dict(part)
        inner = rest.pop("degradation", None)
        if inner in (kind, "pairs"):
            raise ValueError(f"{inner!r} cannot be among the {parts} of {kind!r}")
        made.append(make_degradation(inner, rest))
    return DEGRADATIONS[kind](**{**fields, parts: tuple(made)})


def entry_of(degrade: Any) -> dict[str, Any] | None:
    """The `{degradation, ...}` dict that makes a degradation, or None for one that no config can
    ask for.
    """
    kind = next((name for name, made in DEGRADATIONS.items() if type(degrade) is made), None)
    if kind is None:
        return None
    fields = {field.name: getattr(degrade, field.name) for field in dataclasses.fields(degrade)}
    if kind in PARTS:
        fields[PARTS[kind]] = [entry_of(part) for part in fields[PARTS[kind]]]
    return {"degradation": kind, **fields}


def make_tasks(entries: Iterable[str | Mapping[str, Any]]) -> tuple[Task, ...]:
    """The tasks of a config, in its order.

    Raises:
      ValueError: an entry that is no task, the same name twice, or none at all.
    """
    tasks = tuple(make_task(entry) for entry in entries)
    names = [task.name for task in tasks]
    if not names:
        raise ValueError("no tasks: name at least one in `tasks`")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"tasks named more than once: {', '.join(twice)}")
    return tasks
