"""Benchmark sets: which there are in a folder, what they are scored at, their images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ipt_jax.data.layouts import (
    LOOKED_FOR,
    Layout,
    canonical_name,
    folders_in,
    read_picture,
    shown_content,
    understand,
)
from ipt_jax.degradations.bicubic import Bicubic
from ipt_jax.degradations.noise import Noise
from ipt_jax.degradations.paired import Paired
from ipt_jax.degradations.rain import Rain, RainFolder
from ipt_jax.errors import DataError
from ipt_jax.evaluate.scoring import Picture
from ipt_jax.messages import nearest
from ipt_jax.tasks import Task

# What sets are measured at, by convention; others at whatever their pictures allow.
USUAL = {
    "set5": "sr",
    "set14": "sr",
    "b100": "sr",
    "urban100": "sr noise",
    "manga109": "sr",
    "cbsd68": "noise",
    "kodak24": "noise",
    "mcmaster": "noise",
    "rain100l": "rain",
    "rain100h": "rain",
    "test100": "rain",
    "gopro": "pairs",
}


@dataclasses.dataclass(frozen=True)
class BenchmarkSet:
    """A benchmark set: a folder in a known layout, whose images are read when asked for."""

    layout: Layout

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.layout.name

    @property
    def hq(self) -> Mapping[str, Path]:
        """The clean images by name."""
        return self.layout.hq

    @property
    def canonical(self) -> str:
        """The name, in lower case, by which tables call the set."""
        return canonical_name(self.name)

    def kinds(self) -> set[str]:
        """The kinds of task that the set is measured at by convention."""
        return set(
            USUAL.get(
                self.canonical, "rain pairs" if self.layout.paired else "sr noise rain"
            ).split()
        )

    def suits(self, task: Task) -> bool:
        """Whether the set can be used for the task at all."""
        if self.layout.paired:
            return task.scale in self.layout.lq and not isinstance(task.degrade, Noise)
        return kind_of(task) != "pairs"

    def pictures(self, task: Task) -> Iterator[Picture]:
        """The pictures for a task, in the order of their names.

        Raises:
          DataError: a file that is not a whole picture, by name.
        """
        # A set's own LR files are made by plain bicubic reduction: they are no inputs of another
        # degradation.
        own = self.layout.paired or isinstance(task.degrade, (Bicubic, Paired))
        lq = self.layout.lq.get(task.scale, {}) if own else {}
        for name, path in self.hq.items():
            yield Picture(name, read_picture(path), read_picture(lq[name]) if lq else None)

    def describe(self) -> str:
        """One line: the set, how many pictures, and the layout."""
        return (
            f"{self.name}: {len(self.hq)} picture{'s' if len(self.hq) > 1 else ''}, "
            f"{self.layout.words}"
        )


def kind_of(task: Task) -> str:
    """ "sr", "noise", "rain", or "pairs" for what only comes in pairs."""
    if task.scale > 1:
        return "sr"
    if isinstance(task.degrade, (Rain, RainFolder)):
        return "rain"
    return "pairs" if getattr(task.degrade, "paired", False) else "noise"


def find_sets(root: str | Path, names: Sequence[str] = ()) -> list[BenchmarkSet]:
    """The sets in a folder: those named, or all that are understood, or the folder itself if it is
    one.

    Raises:
      DataError: no such folder, no such set, or nothing that is understood; what was looked for and
        what is there.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DataError(
            f"--data {root}: {'not a folder' if root.exists() else 'there is no such folder'}"
        )
    if names:
        return [_named(root, name) for name in names]
    whole = understand(root)
    if whole is not None:
        return [BenchmarkSet(whole)]
    found = [understand(child) for child in _places(root)]
    sets = [BenchmarkSet(one) for one in found if one is not None]
    if not sets:
        raise DataError(
            f"{root}: no pictures in a layout that is known. Looked for, here and one folder down: "
            f"{LOOKED_FOR}. "
            f"There is: {shown_content(root)}"
        )
    return sets


def _named(root: Path, name: str) -> BenchmarkSet:
    places = {canonical_name(place.name): place for place in reversed([root, *_places(root)])}
    place = places.get(canonical_name(name))
    if place is None:
        raise DataError(
            f"no set {name!r} in {root}{nearest(name, [p.name for p in places.values()])}; there "
            f"is: {shown_content(root)}"
        )
    found = understand(place)
    if found is None:
        raise DataError(
            f"{place}: no pictures in a layout that is known. Looked for: {LOOKED_FOR}. There is: "
            f"{shown_content(place)}"
        )
    return BenchmarkSet(found)


def _places(root: Path) -> list[Path]:
    """Folders that may be sets: the children, and those of `benchmark`, as in EDSR's data
    folder.
    """
    children = folders_in(root)
    inner = [
        child
        for key in ("benchmark", "benchmarks")
        if key in children
        for child in folders_in(children[key]).values()
    ]
    return [
        child for key, child in children.items() if key not in ("benchmark", "benchmarks")
    ] + inner
