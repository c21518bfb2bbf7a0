"""The folder layouts in which benchmark sets and image pairs are distributed.

`understand` recognises a folder's layout and matches degraded with clean images by name. Its
result is used by `ipt evaluate` (`evaluate/sets.py`) and by training on pairs (`sources/pairs.py`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ipt_jax.errors import DataError, DecodeError
from ipt_jax.images.decode import decode
from ipt_jax.images.files import read_image_file
from ipt_jax.images.formats import SUFFIXES
from ipt_jax.messages import listed, printable

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

# Names of a folder of clean images, lower case.
CLEAN = ("hr", "gtmod12", "original", "gt", "clean", "target")

# Paths of a folder of low-resolution images for a scale, lower case.
LR = ("lr_bicubic/x{}", "lr_bicubic_x{}", "lr/x{}", "lrbicx{}", "lr_x{}", "x{}")

SCALES = (2, 3, 4)

# Other names of benchmark sets -> the usual name, both in lower case.
ALSO_CALLED = {
    "bsd100": "b100",
    "bsds100": "b100",
    "bsd68": "cbsd68",
    "cbsd68_hq": "cbsd68",
    "kodak": "kodak24",
}

# The known layouts, for messages.
LOOKED_FOR = (
    "images; HR (with LR_bicubic/X2, X3, X4); pairs of folders such as rainy + clean, input + "
    "target, blur + sharp; rainy/rain-x + norain-x"
)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The images of a folder.

    Attributes:
      name: of the folder.
      folder: its path.
      hq: name -> clean image, in order.
      lq: scale -> name -> degraded image; empty if the degraded images have to be made.
      paired: whether the set brings its own degradation, such as rain or blur.
      words: the layout in words.
    """

    name: str
    folder: Path
    hq: Mapping[str, Path]
    lq: Mapping[int, Mapping[str, Path]]
    paired: bool
    words: str


def read_picture(path: Path) -> np.ndarray:
    """Reads an image, uint8 `[H, W, 3]`.

    Raises:
      DataError: the file cannot be read or decoded; the message names it.
    """
    try:
        return decode(read_image_file(path))
    except DecodeError as error:
        raise DataError(f"{printable(path)}: {error}") from None
    except OSError as error:
        raise DataError(f"{printable(path)}: {error.strerror or error}") from None


def canonical_name(name: str) -> str:
    """Returns the usual name of a benchmark set in lower case, e.g. "b100" for "BSD100"."""
    return ALSO_CALLED.get(name.lower(), name.lower())


def folders_in(folder: Path) -> dict[str, Path]:
    """Returns the folders in a folder by their names in lower case, without hidden ones."""
    return {
        child.name.lower(): child
        for child in sorted(folder.iterdir())
        if child.is_dir() and not child.name.startswith(".")
    }


def shown_content(folder: Path) -> str:
    """Returns the first entries of a folder for a message; names of folders end in "/"."""
    return (
        listed(
            sorted(child.name + ("/" if child.is_dir() else "") for child in folder.iterdir()), 8
        )
        or "nothing"
    )


def _natural_order(stem: str) -> list[int | str]:
    """Returns a sort key with which "x2" comes before "x10"."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", stem.lower())]


def picture_files(folder: Path) -> dict[str, Path]:
    """Returns a folder's image files by stem, sorted naturally ("2" before "10").

    Raises:
      DataError: two files have the same stem.
    """
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]
    by_stem: dict[str, Path] = {}
    for path in sorted(found, key=lambda path: (_natural_order(path.stem), path.name)):
        if path.stem in by_stem:
            raise DataError(
                f"{folder}: two images of one name: {by_stem[path.stem].name}, {path.name}"
            )
        by_stem[path.stem] = path
    return by_stem


def understand(folder: Path) -> Layout | None:
    """Returns the layout of a folder, or None if it has none of the known ones.

    Raises:
      DataError: the layout is known, but some of its images are missing or do not match.
    """
    inside = folders_in(folder)
    found = _folder_pairs(inside)
    if found is not None:
        return _pairs(folder, *found)
    here = picture_files(folder)
    found = _rain_pairs(folder, inside, here) or _scene_pairs(folder, inside)
    if found is not None:
        return _pairs(folder, *found)
    for name in CLEAN:
        if name in inside and (hq := picture_files(inside[name])):
            return _with_lr(folder, hq, inside[name].name)
    if here:
        return Layout(folder.name, folder, here, {}, False, "a flat folder of clean pictures")
    return None


# Degraded images, clean images, and the layout in words.
_Found = tuple[Mapping[str, Path], Mapping[str, Path], str]


def _folder_pairs(inside: Mapping[str, Path]) -> _Found | None:
    """Finds a folder of degraded images beside one of clean images, such as rainy/ + clean/."""
    for degraded, clean in PAIRS:
        if degraded in inside and clean in inside:
            lq, hq = picture_files(inside[degraded]), picture_files(inside[clean])
            return lq, hq, f"pairs {degraded}/ + {clean}/"
    return None


def _rain_pairs(
    folder: Path, inside: Mapping[str, Path], here: Mapping[str, Path]
) -> _Found | None:
    """Finds clean images norain-x in the folder, with rain-x beside them or in rainy/."""
    clean = {
        name.removeprefix("no"): path for name, path in here.items() if name.startswith("norain-")
    }
    for place, prefix in ((inside.get("rainy"), "rainy/"), (folder, "")):
        if clean and place is not None:
            files = picture_files(place)
            rainy = {name: path for name, path in files.items() if name.startswith("rain-")}
            if rainy:
                return rainy, clean, f"pairs {prefix}rain-x + norain-x"
    return None


def _scene_pairs(folder: Path, inside: Mapping[str, Path]) -> _Found | None:
    """Finds blur/ + sharp/ in each folder of a scene, as in GoPro; the scenes may be in test/."""
    scenes = inside.get("test", folder)
    nested = {child.name: folders_in(child) for child in folders_in(scenes).values()}
    nested = {name: child for name, child in nested.items() if {"blur", "sharp"} <= child.keys()}
    if not nested:
        return None
    lq, hq = (
        {
            f"{name}/{stem}": path
            for name, child in nested.items()
            for stem, path in picture_files(child[side]).items()
        }
        for side in ("blur", "sharp")
    )
    return lq, hq, "pairs blur/ + sharp/ of each scene"


def _pairs(
    folder: Path, lq: Mapping[str, Path], hq: Mapping[str, Path], layout: str
) -> Layout | None:
    """Matches the images of a set of pairs by name; the first pair gives the scale."""
    if not lq and not hq:
        return None
    matched = match_names(hq, lq, f"{folder}: {layout}", "degraded image")
    first = next(iter(hq))
    big, small = read_picture(hq[first]), read_picture(matched[first])
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
    return Layout(folder.name, folder, hq, {scale: matched}, True, layout)


def _with_lr(folder: Path, hq: Mapping[str, Path], called: str) -> Layout:
    """Returns the layout of clean images, with the low-resolution images that the folder holds."""
    inside = folders_in(folder) | {
        f"{a}/{b}": p
        for a, child in folders_in(folder).items()
        for b, p in folders_in(child).items()
    }
    lq = {}
    for scale in SCALES:
        place = next((inside[key.format(scale)] for key in LR if key.format(scale) in inside), None)
        if place is not None and (there := picture_files(place)):
            lq[scale] = match_names(hq, there, str(place), "low-resolution image")
    made = [f"x{s}" for s in SCALES if s not in lq]
    layout = f"{called}/, LR from files {' '.join(f'x{s}' for s in lq)}" if lq else f"{called}/"
    return Layout(
        folder.name,
        folder,
        hq,
        lq,
        False,
        layout + (f"; LR made for {' '.join(made)}" if made else ""),
    )


def match_names(
    hq: Mapping[str, Path], others: Mapping[str, Path], where: str, what: str
) -> dict[str, Path]:
    """Returns for each clean image the file with the same name in another folder.

    That name may have an addition: `babyx2` or `baby_RCAN_x2` for `baby`.

    Args:
      hq: name -> clean image.
      others: name -> file in the other folder.
      where: names the other folder in messages.
      what: names the kind of file in messages.

    Raises:
      DataError: some clean images have no such file, or several; the message names them.
    """
    found: dict[str, Path] = {}
    missing = []
    for name in hq:
        fits = [stem for stem in others if stem == name] or [
            stem for stem in others if re.fullmatch(re.escape(name) + r"(x\d+.*|[_\-. ].*)", stem)
        ]
        numbers = re.findall(r"\d+", name)
        # The number is the name, as in rain-001 and 001_clean.
        if not fits and numbers:
            fits = [stem for stem in others if re.findall(r"\d+", stem)[:1] == numbers[:1]]
        if len(fits) == 1:
            found[name] = others[fits[0]]
        else:
            missing.append(name + (f" ({', '.join(fits[:3])}?)" if fits else ""))
    if missing:
        raise DataError(f"{where}: no {what} for {listed(missing)}; there: {listed(others)}")
    return found
