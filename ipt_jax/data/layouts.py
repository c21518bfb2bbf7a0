"""Finds benchmark sets in a folder, in the layouts in which they are handed around, and reads their
pictures.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ipt_jax.degradations.bicubic import Bicubic
from ipt_jax.degradations.noise import Noise
from ipt_jax.degradations.paired import Paired
from ipt_jax.degradations.rain import Rain, RainFolder
from ipt_jax.errors import DataError, DecodeError
from ipt_jax.evaluate.scoring import Picture
from ipt_jax.images.decode import SUFFIXES, decode
from ipt_jax.messages import listed, nearest
from ipt_jax.tasks import Task

# Folder names of (degraded, clean), lower case.
PAIRS = (
    ("rainy", "clean"),
    ("rain", "norain"),
    ("rainy", "norain"),
    ("input", "target"),
    ("input", "gt"),
    ("input", "groundtruth"),
    ("blur", "sharp"),
    ("noisy", "clean"),
    ("lq", "hq"),
    ("lq", "gt"),
    ("degraded", "clean"),
)

CLEAN = ("hr", "gtmod12", "original", "gt", "clean", "target")

LR = ("lr_bicubic/x{}", "lr_bicubic_x{}", "lr/x{}", "lrbicx{}", "lr_x{}", "x{}")

SCALES = (2, 3, 4)

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

ALSO_CALLED = {
    "bsd100": "b100",
    "bsds100": "b100",
    "bsd68": "cbsd68",
    "cbsd68_hq": "cbsd68",
    "kodak": "kodak24",
}

LOOKED_FOR = (
    "pictures; HR (with LR_bicubic/X2, X3, X4); pairs of folders such as rainy + clean, input + "
    "target, "
    "blur + sharp; rainy/rain-x + norain-x"
)


@dataclasses.dataclass(frozen=True)
class BenchmarkSet:
    """A benchmark set: files by picture name, read when asked for.

    Attributes:
      name: of the set.
      folder: where it is.
      hq: the clean pictures.
      lq: the degraded pictures: of a scale for super-resolution; {} where they are to be made.
      paired: whether the degraded pictures are the set's own, such as rain or blur.
      layout: what was understood, in words.
    """

    name: str
    folder: Path
    hq: Mapping[str, Path]
    lq: Mapping[int, Mapping[str, Path]]
    paired: bool
    layout: str

    @property
    def canonical(self) -> str:
        """The name, in lower case, by which tables call the set."""
        return _canonical(self.name)

    def kinds(self) -> set[str]:
        """The kinds of task that the set is measured at by convention."""
        return set(
            USUAL.get(self.canonical, "rain pairs" if self.paired else "sr noise rain").split()
        )

    def suits(self, task: Task) -> bool:
        """Whether the set can be used for the task at all."""
        if self.paired:
            return task.scale in self.lq and not isinstance(task.degrade, Noise)
        return kind_of(task) != "pairs"

    def pictures(self, task: Task) -> Iterator[Picture]:
        """The pictures for a task, in the order of their names.

        Raises:
          DataError: a file that is not a whole picture, by name.
        """
        # A set's own LR files are made by plain bicubic reduction: they are no inputs of another
        # degradation.
        own = self.paired or isinstance(task.degrade, (Bicubic, Paired))
        lq = self.lq.get(task.scale, {}) if own else {}
        for name, path in self.hq.items():
            yield Picture(name, read(path), read(lq[name]) if lq else None)

    def describe(self) -> str:
        """One line: the set, how many pictures, and the layout."""
        return (
            f"{self.name}: {len(self.hq)} picture{'s' if len(self.hq) > 1 else ''}, {self.layout}"
        )


def kind_of(task: Task) -> str:
    """ "sr", "noise", "rain", or "pairs" for what only comes in pairs."""
    if task.scale > 1:
        return "sr"
    if isinstance(task.degrade, (Rain, RainFolder)):
        return "rain"
    return "pairs" if getattr(task.degrade, "paired", False) else "noise"


def read(path: Path) -> np.ndarray:
    """A picture, uint8 `[H, W, 3]`.

    Raises:
      DataError: it cannot be read; the message names the file.
    """
    try:
        return decode(path.read_bytes())
    except (DecodeError, OSError) as error:
        raise DataError(f"{path}: {error}") from None


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
        return [whole]
    found = [understand(child) for child in _places(root)]
    sets = [one for one in found if one is not None]
    if not sets:
        raise DataError(
            f"{root}: no pictures in a layout that is known. Looked for, here and one folder down: "
            f"{LOOKED_FOR}. "
            f"There is: {_there(root)}"
        )
    return sets


def _named(root: Path, name: str) -> BenchmarkSet:
    places = {_canonical(place.name): place for place in reversed([root, *_places(root)])}
    place = places.get(_canonical(name))
    if place is None:
        raise DataError(
            f"no set {name!r} in {root}{nearest(name, [p.name for p in places.values()])}; there "
            f"is: {_there(root)}"
        )
    found = understand(place)
    if found is None:
        raise DataError(
            f"{place}: no pictures in a layout that is known. Looked for: {LOOKED_FOR}. There is: "
            f"{_there(place)}"
        )
    return found


def _places(root: Path) -> list[Path]:
    """Folders that may be sets: the children, and those of `benchmark`, as in EDSR's data
    folder.
    """
    children = _folders(root)
    inner = [
        child
        for key in ("benchmark", "benchmarks")
        if key in children
        for child in _folders(children[key]).values()
    ]
    return [
        child for key, child in children.items() if key not in ("benchmark", "benchmarks")
    ] + inner


def _canonical(name: str) -> str:
    return ALSO_CALLED.get(name.lower(), name.lower())


def _folders(folder: Path) -> dict[str, Path]:
    return {
        child.name.lower(): child
        for child in sorted(folder.iterdir())
        if child.is_dir() and not child.name.startswith(".")
    }


def _there(folder: Path) -> str:
    return (
        listed(
            sorted(child.name + ("/" if child.is_dir() else "") for child in folder.iterdir()), 8
        )
        or "nothing"
    )


def _number(stem: str) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", stem.lower())]


def files(folder: Path) -> dict[str, Path]:
    """Picture files of a folder by stem, numbers in their order."""
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]
    by_stem: dict[str, Path] = {}
    for path in sorted(found, key=lambda path: (_number(path.stem), path.name)):
        if path.stem in by_stem:
            raise DataError(
                f"{folder}: two pictures of one name: {by_stem[path.stem].name}, {path.name}"
            )
        by_stem[path.stem] = path
    return by_stem


def understand(folder: Path) -> BenchmarkSet | None:
    """The set that a folder is, or None.

    Raises:
      DataError: the layout is known, but pictures of it are missing; they are named.
    """
    inside = _folders(folder)
    for degraded, clean in PAIRS:
        if degraded in inside and clean in inside:
            return _pairs(
                folder,
                files(inside[degraded]),
                files(inside[clean]),
                f"pairs {degraded}/ + {clean}/",
            )
    here = files(folder)
    for place, prefix in ((inside.get("rainy"), "rainy/"), (folder, "")):
        clean_files = {
            name.removeprefix("no"): path
            for name, path in here.items()
            if name.startswith("norain-")
        }
        if clean_files and place is not None:
            rainy = {name: path for name, path in files(place).items() if name.startswith("rain-")}
            if rainy:
                return _pairs(folder, rainy, clean_files, f"pairs {prefix}rain-x + norain-x")
    scenes = inside.get("test", folder)
    nested = {child.name: _folders(child) for child in _folders(scenes).values()}
    nested = {name: child for name, child in nested.items() if {"blur", "sharp"} <= child.keys()}
    if nested:
        sides = [
            {
                f"{name}/{stem}": path
                for name, child in nested.items()
                for stem, path in files(child[side]).items()
            }
            for side in ("blur", "sharp")
        ]
        return _pairs(folder, sides[0], sides[1], "pairs blur/ + sharp/ of each scene")
    for name in CLEAN:
        if name in inside and (hq := files(inside[name])):
            return _with_lr(folder, hq, inside[name].name)
    if here:
        return BenchmarkSet(folder.name, folder, here, {}, False, "a flat folder of clean pictures")
    return None


def _pairs(
    folder: Path, lq: Mapping[str, Path], hq: Mapping[str, Path], layout: str
) -> BenchmarkSet | None:
    if not lq and not hq:
        return None
    matched = match(hq, lq, f"{folder}: {layout}", "degraded picture")
    first = next(iter(hq))
    big, small = read(hq[first]), read(matched[first])
    scale = next(
        (
            s
            for s in (1, *SCALES)
            if all(b // s == a for a, b in zip(small.shape[:2], big.shape[:2]))
        ),
        0,
    )
    if not scale:
        raise DataError(
            f"{folder}: the sizes of the pair {matched[first].name} "
            f"({small.shape[1]}x{small.shape[0]}) and "
            f"{hq[first].name} ({big.shape[1]}x{big.shape[0]}) do not match"
        )
    return BenchmarkSet(folder.name, folder, hq, {scale: matched}, True, layout)


def _with_lr(folder: Path, hq: Mapping[str, Path], called: str) -> BenchmarkSet:
    inside = _folders(folder) | {
        f"{a}/{b}": p for a, child in _folders(folder).items() for b, p in _folders(child).items()
    }
    lq = {}
    for scale in SCALES:
        place = next((inside[key.format(scale)] for key in LR if key.format(scale) in inside), None)
        if place is not None and (there := files(place)):
            lq[scale] = match(hq, there, str(place), "low-resolution picture")
    made = [f"x{s}" for s in SCALES if s not in lq]
    layout = f"{called}/, LR from files {' '.join(f'x{s}' for s in lq)}" if lq else f"{called}/"
    return BenchmarkSet(
        folder.name,
        folder,
        hq,
        lq,
        False,
        layout + (f"; LR made for {' '.join(made)}" if made else ""),
    )


def match(
    hq: Mapping[str, Path], others: Mapping[str, Path], where: str, what: str
) -> dict[str, Path]:
    """For each clean picture the other file of its name, which may add a word: `baby`, `babyx2`,
    `baby_RCAN_x2`.

    Raises:
      DataError: pictures without one, by name.
    """
    found: dict[str, Path] = {}
    missing = []
    for name in hq:
        fits = [stem for stem in others if stem == name] or [
            stem for stem in others if re.fullmatch(re.escape(name) + r"(x\d+.*|[_\-. ].*)", stem)
        ]
        numbers = re.findall(r"\d+", name)
        # Rain-001 and 001_clean: the number is the name
        if not fits and numbers:
            fits = [stem for stem in others if re.findall(r"\d+", stem)[:1] == numbers[:1]]
        if len(fits) == 1:
            found[name] = others[fits[0]]
        else:
            missing.append(name + (f" ({', '.join(fits[:3])}?)" if fits else ""))
    if missing:
        raise DataError(f"{where}: no {what} for {listed(missing)}; there: {listed(others)}")
    return found
