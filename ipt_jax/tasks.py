"""The table of tasks: the only place where a task is defined.

A task degrades a clean image (hq) to the network's input (lq), and the network learns to reverse
this. Heads, tails, embeddings, the pipeline, the loss and the evaluation all read this table. A new
task is therefore one entry here, or one `{name, degradation, ...}` dict in a config.

| task | scale | degradation of each crop |
|---|---|---|
| `sr2`, `sr3`, `sr4` | 2, 3, 4 | bicubic reduction with MATLAB's bits |
| `derain` | 1 | drawn rain streaks with the statistics of Rain100L |
| `denoise30`, `denoise50` | 1 | noise of sigma 30 or 50, clipped to 0..255 |
| `denoise` | 1 | noise of sigma 0 to 55, half of it clipped; 10 % of the crops stay clean |
| `jpeg` | 1 | JPEG of quality 10 to 95; 10 % of the crops stay clean |
| `photo2` | 2 | blur, bicubic reduction, noise and JPEG, each of random strength |
| `deblur` | 1 | Gaussian blur or motion blur of random strength |

The first six are the paper's. The others are blind: the network is not told the strength.
"""

from __future__ import annotations

import dataclasses
import re
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
    """A pure, picklable function of an image and a generator (see `ipt_jax.degradations`)."""

    @property
    def margin(self) -> int:
        """lq pixels that a crop needs on every side to equal the crop of the degraded image."""

    @property
    def rounded(self) -> bool:
        """Whether lq is uint8; otherwise it is float32 in the scale of 0..255."""

    def __call__(self, hq: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Degrades hq uint8 `[H, W, 3]` to lq `[H / scale, W / scale, 3]`."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One restoration task.

    Attributes:
      name: of the task's head, tail and embedding, its part of a batch, and its metrics.
      scale: side of hq divided by that of lq.
      degrade: makes lq from hq.
    """

    name: str
    scale: int
    degrade: Degradation

    @property
    def border(self) -> int:
        """hq pixels that a score leaves out on every side: the scale for SR, none at scale 1."""
        return self.scale if self.scale > 1 else 0


# The paper's six tasks in the order of the authors' six-task file; the default of configs.
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
        # Blind tasks for photographs from phones and the web, beyond the paper. Clean crops teach
        # the network not to change images that need no restoration.
        Task("denoise", 1, Noise((0.0, 55.0), clipped=0.5, clean=0.1)),
        Task("jpeg", 1, Jpeg((10, 95), clean=0.1)),
        Task(
            "photo2",
            2,
            Chain((GaussianBlur((0.2, 1.0)), Bicubic(2), Noise((0.0, 10.0)), Jpeg((50, 95)))),
        ),
        Task("deblur", 1, OneOf((GaussianBlur((0.5, 3.0)), MotionBlur((3, 15), (0, 180))))),
    )
}

# What each task is for, in the words of somebody who has an image and no paper at hand.
IN_WORDS = {
    "sr2": "makes a clean image twice as large",
    "sr3": "makes a clean image three times as large",
    "sr4": "makes a clean image four times as large",
    "photo2": "makes a photograph from a phone or the web twice as large and cleans it",
    "denoise": "removes noise of any strength",
    "denoise30": "removes strong noise (sigma 30 of 255)",
    "denoise50": "removes very strong noise (sigma 50 of 255)",
    "jpeg": "removes the blocks and rings of JPEG compression",
    "derain": "removes rain streaks",
    "deblur": "sharpens an image that is out of focus or was moved",
}

# What people call a task, beside its name.
_SCALE = re.compile(r"(?:sr|up|x|super[ _-]?res\w*|upscale)?[ _-]?x?([2-9])x?")
_SYNONYMS = {
    **dict.fromkeys(("sr", "up", "upscale", "upscaling", "enlarge", "superresolution"), "sr2"),
    **dict.fromkeys(("noise", "denoising", "grain", "clean"), "denoise"),
    **dict.fromkeys(("rain", "deraining"), "derain"),
    **dict.fromkeys(("blur", "deblurring", "sharpen", "focus"), "deblur"),
    **dict.fromkeys(("jpg", "dejpeg", "artifacts", "artefacts", "compression"), "jpeg"),
    **dict.fromkeys(("photo", "phone"), "photo2"),
}


def similar_task(name: str, known: Iterable[str]) -> str:
    """Returns a hint for a message about an unknown task.

    Args:
      name: what the user wrote, such as "2x", "upscale" or "denoise_30".
      known: the names that are possible.

    Returns:
      " (did you mean 'sr2'?)", or "" if no known task is similar.
    """
    known, word = list(known), name.strip().lower()
    scale = _SCALE.fullmatch(word)
    guess = f"sr{scale[1]}" if scale else _SYNONYMS.get(word, "")
    if guess in known:
        return f" (did you mean {guess!r}?)"
    return nearest(word, known)


def in_words(names: Iterable[str]) -> str:
    """Returns a line for each task that says what it is for."""
    return "\n".join(
        f"  {name:10} {IN_WORDS.get(name, 'a task of these weights')}" for name in names
    )


# Names of degradations in a config's `{name, degradation, ...}` dict, whose other keys are the
# degradation's fields.
DEGRADATIONS: dict[str, type] = {
    "bicubic": Bicubic,
    "noise": Noise,
    "rain": Rain,
    "rain_folder": RainFolder,
    "gaussian_blur": GaussianBlur,
    "motion_blur": MotionBlur,
    "kernel_blur": KernelBlur,
    "jpeg": Jpeg,
    # `steps` is a list of {degradation, ...} dicts.
    "chain": Chain,
    # `choices` is a list of {degradation, ...} dicts.
    "one_of": OneOf,
    # For data.source=pairs, whose degraded images exist already.
    "pairs": Paired,
}

# Degradations that are made of others -> the field that holds these.
PARTS = {"chain": "steps", "one_of": "choices"}


def make_task(entry: str | Mapping[str, Any]) -> Task:
    """Returns the task of a config's entry.

    Args:
      entry: a name of the table, or a dict of `name`, `degradation` and the degradation's fields,
        such as `{"name": "denoise70", "degradation": "noise", "sigma": 70}`.

    Raises:
      ValueError: the task, degradation or field is unknown (the message names the nearest known
        one), or a value is not allowed.
    """
    if isinstance(entry, str):
        if entry not in TASKS:
            raise ValueError(
                f"unknown task {entry!r}{similar_task(entry, TASKS)}; known: {', '.join(TASKS)}"
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
    """Returns a degradation, given its name and its fields.

    Raises:
      ValueError: the degradation or a field is unknown (the message names the nearest known one),
        or a value is not allowed.
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
    """Returns the `{degradation, ...}` dict with which a config asks for a degradation.

    This is the inverse of `make_degradation`. It returns None for an object that no config can ask
    for.
    """
    kind = next((name for name, made in DEGRADATIONS.items() if type(degrade) is made), None)
    if kind is None:
        return None
    fields = {field.name: getattr(degrade, field.name) for field in dataclasses.fields(degrade)}
    if kind in PARTS:
        fields[PARTS[kind]] = [entry_of(part) for part in fields[PARTS[kind]]]
    return {"degradation": kind, **fields}


def make_tasks(entries: Iterable[str | Mapping[str, Any]]) -> tuple[Task, ...]:
    """Returns the tasks of a config, in its order.

    Raises:
      ValueError: an entry is not a task, a name occurs twice, or there are no entries.
    """
    tasks = tuple(make_task(entry) for entry in entries)
    names = [task.name for task in tasks]
    if not names:
        raise ValueError("no tasks: name at least one in `tasks`")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"tasks named more than once: {', '.join(twice)}")
    return tasks
