"""Benchmark sets: finding them in a folder, their usual tasks, and their images."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterator, Mapping, Sequence
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
from ipt_jax.evaluate.scoring import BenchmarkImage
from ipt_jax.messages import nearest, printable
from ipt_jax.tasks import Task

# The kinds of task at which sets are scored by convention. Other sets are scored at every kind that
# their images allow.
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
class SetSummary:
    """What tables and reports say of a benchmark set.

    Attributes:
      name: the name of its folder.
      count: the number of its images.
      words: its layout.
    """

    name: str
    count: int
    words: str

    @property
    def canonical(self) -> str:
        """The set's usual name in lower case, which tables of published scores use."""
        return canonical_name(self.name)

    def describe(self) -> str:
        """Returns one line with the set's name, number of images and layout."""
        return (
            f"{printable(self.name)}: {self.count} image{'s' if self.count > 1 else ''}, "
            f"{self.words}"
        )


@dataclasses.dataclass(frozen=True)
class BenchmarkSet:
    """A benchmark set: a folder in a known layout. Its images are read when they are needed."""

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
        """The set's usual name in lower case, which tables of published scores use."""
        return canonical_name(self.name)

    @property
    def summary(self) -> SetSummary:
        """The set's name, number of images and layout."""
        return SetSummary(self.name, len(self.hq), self.layout.words)

    def names(self, task: Task) -> list[str]:
        """Returns the names of the images for a task, in order."""
        return list(self.layout.clean(task.scale))

    def kinds(self) -> set[str]:
        """Returns the kinds of task at which the set is scored by convention."""
        own = "sr noise rain"
        if self.layout.paired:
            own = "rain pairs" if 1 in self.layout.lq else "sr"
        return set(USUAL.get(self.canonical, own).split())

    def suits(self, task: Task) -> bool:
        """Returns whether the set can be scored at the task."""
        if self.layout.paired:
            return task.scale in self.layout.lq and not isinstance(task.degrade, Noise)
        return kind_of(task) != "pairs"

    def pictures(self, task: Task, only: Container[int] | None = None) -> Iterator[BenchmarkImage]:
        """Yields the images for a task in the order of their names.

        Args:
          task: the task.
          only: the numbers of the images, from 0, that are read; None for all.

        Raises:
          DataError: a file is not an intact image; the message names it.
        """
        # The LR files of a set are made by bicubic reduction, so they are not used for other
        # degradations.
        own = self.layout.paired or isinstance(task.degrade, (Bicubic, Paired))
        lq = self.layout.lq.get(task.scale, {}) if own else {}
        for number, (name, path) in enumerate(self.layout.clean(task.scale).items()):
            if only is not None and number not in only:
                continue
            yield BenchmarkImage(name, read_picture(path), read_picture(lq[name]) if lq else None)

    def describe(self) -> str:
        """Returns one line with the set's name, number of images and layout."""
        return self.summary.describe()


def kind_of(task: Task) -> str:
    """Returns the kind of a task: "sr", "noise", "rain", or "pairs" for tasks that need pairs."""
    if task.scale > 1:
        return "sr"
    if isinstance(task.degrade, (Rain, RainFolder)):
        return "rain"
    return "pairs" if getattr(task.degrade, "paired", False) else "noise"


def find_sets(root: str | Path, names: Sequence[str] = ()) -> list[BenchmarkSet]:
    """Returns the sets in a folder.

    Args:
      root: a folder of sets, or one set.
      names: names of sets; empty for the folder itself if it is a set, and else for all sets in it.

    Raises:
      DataError: there is no such folder or set, or no set has a known layout; the message lists the
        known layouts and the content of the folder.
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
            f"{root}: no images in a known layout. Looked for, here and one folder below: "
            f"{LOOKED_FOR}. The folder contains: {shown_content(root)}"
        )
    return sets


def _named(root: Path, name: str) -> BenchmarkSet:
    places = {canonical_name(place.name): place for place in reversed([root, *_places(root)])}
    place = places.get(canonical_name(name))
    if place is None:
        raise DataError(
            f"no set {name!r} in {root}{nearest(name, [p.name for p in places.values()])}; the "
            f"folder contains: {shown_content(root)}"
        )
    found = understand(place)
    if found is None:
        raise DataError(
            f"{place}: no images in a known layout. Looked for: {LOOKED_FOR}. The folder contains: "
            f"{shown_content(place)}"
        )
    return BenchmarkSet(found)


def _places(root: Path) -> list[Path]:
    """Returns the folders that may be sets: the children, and those of EDSR's `benchmark`."""
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
