"""The folder layouts in which benchmark sets and image pairs are distributed.

`understand` recognises a folder's layout and matches degraded with clean images by name, with the
rule of `partners.py`. Its result is used by `ipt evaluate` (`evaluate/sets.py`), by training on
pairs (`sources/pairs.py`) and by `ipt data check`.
"""

from __future__ import annotations

import dataclasses
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ipt_jax.data.files import DANGLING, find_files, is_dangling
from ipt_jax.data.partners import Match, explain, match_pairs, match_versions
from ipt_jax.errors import DataError, DecodeError
from ipt_jax.images.decode import decode
from ipt_jax.images.files import open_image_file, read_image_file
from ipt_jax.images.formats import SUFFIXES
from ipt_jax.images.metadata import ORIENTATION
from ipt_jax.log import logger
from ipt_jax.messages import listed, printable

# Folder names of (degraded, clean), lower case.
PAIRS = (
    ("rainy", "clean"),
    ("rain", "norain"),
    ("rainy", "norain"),
    ("input", "target"),
    ("input", "gt"),
    ("input", "groundtruth"),
    ("input", "ground_truth"),
    ("blur", "sharp"),
    ("noisy", "clean"),
    ("lq", "hq"),
    ("lq", "gt"),
    ("degraded", "clean"),
    ("data", "gt"),
)

# Folder names of sets with several (degraded) images of each (clean) one, lower case.
VERSIONS = (
    ("rainy_image", "ground_truth"),
    ("hazy", "gt"),
    ("hazy", "clear"),
)

# Names of a folder of clean images, lower case.
CLEAN = ("hr", "gtmod12", "original", "gt", "clean", "target")

# Paths of a folder of low-resolution images for a scale, lower case: made by bicubic reduction, and
# made in another way.
LR = ("lr_bicubic/x{}", "lr_bicubic_x{}", "lr/x{}", "lrbicx{}", "lr_x{}", "x{}")
LR_UNKNOWN = ("lr_unknown/x{}", "lr_unknown_x{}")

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
    "images; HR (with LR_bicubic/X2, X3, X4 or LR_unknown/X2), also as DIV2K_train_HR; "
    "image_SRF_2/*_HR.png; pairs of folders such as rainy + clean, input + target, blur + sharp; "
    "rainy/rain-x + norain-x; rainy_image + ground_truth"
)

# Files beside pairs rain-x + norain-x that are neither: the layers of rain of Rain100H.
_RAIN_LAYERS = ("rainstreak", "rainregion")


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
      hq_of_scale: scale -> name -> clean image, where the set has clean images for each scale.
      unused: names of folders with other degraded images of the same clean ones.
    """

    name: str
    folder: Path
    hq: Mapping[str, Path]
    lq: Mapping[int, Mapping[str, Path]]
    paired: bool
    words: str
    hq_of_scale: Mapping[int, Mapping[str, Path]] = dataclasses.field(default_factory=dict)
    unused: tuple[str, ...] = ()

    def clean(self, scale: int) -> Mapping[str, Path]:
        """Returns the clean images for a scale, by name."""
        return self.hq_of_scale.get(scale, self.hq)


def read_picture(path: Path) -> np.ndarray:
    """Reads an image, uint8 `[H, W, 3]`; logs what its decoder warns of.

    Raises:
      DataError: the file cannot be read or decoded; the message names it.
    """

    def warn(text: str) -> None:
        logger.warning(
            "%s is damaged (%s), and is used as its decoder reads it", printable(path), text
        )

    try:
        return decode(read_image_file(path), warn=warn)
    except DecodeError as error:
        raise DataError(f"{printable(path)}: {error}") from None
    except OSError as error:
        reason = DANGLING if is_dangling(path) else error.strerror or error
        raise DataError(f"{printable(path)}: {reason}") from None


def canonical_name(name: str) -> str:
    """Returns the usual name of a benchmark set in lower case, e.g. "b100" for "BSD100"."""
    return ALSO_CALLED.get(name.lower(), name.lower())


def folders_in(folder: Path) -> dict[str, Path]:
    """Returns the folders in a folder by their names in lower case, without hidden ones."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    return {name.lower(): folder / name for name in names if not name.startswith(".")}


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


def picture_files(folder: Path, below: bool = False) -> dict[str, Path]:
    """Returns a folder's image files by stem, sorted naturally ("2" before "10").

    Args:
      folder: the folder.
      below: whether to include the images in its subfolders, under names such as "scene/1".

    Raises:
      DataError: two files have the same name but for the suffix.
    """
    if below:
        found = [Path(name) for name in find_files(folder).images]
    else:
        found = [
            Path(path.name)
            for path in folder.iterdir()
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        ]
    files: dict[str, Path] = {}
    for path in sorted(found, key=lambda path: (_natural_order(str(path)), str(path))):
        name = path.with_suffix("").as_posix()
        if name in files:
            raise DataError(f"{folder}: two images of one name: {files[name].name}, {path.name}")
        files[name] = folder / path
    return files


def understand(folder: Path) -> Layout | None:
    """Returns the layout of a folder, or None if it has none of the known ones.

    Raises:
      DataError: the layout is known, but some of its images are missing or do not match.
    """
    found = understand_pairs(folder)
    if found is not None:
        return found
    inside = folders_in(folder)
    for name in CLEAN:
        if name in inside and (hq := picture_files(inside[name])):
            return _clean_only(folder, hq, inside[name].name)
    if here := picture_files(folder):
        return Layout(folder.name, folder, here, {}, False, "a flat folder of clean pictures")
    return None


def understand_pairs(folder: Path) -> Layout | None:
    """Returns the layout of a folder that holds degraded images, or None for other folders.

    Raises:
      DataError: the folder holds pairs, but an image has no partner, or sizes do not match.
    """
    inside = folders_in(folder)
    return (
        _folder_pairs(folder, inside)
        or _folder_versions(folder, inside)
        or _rain_pairs(folder, inside)
        or _scene_pairs(folder, inside)
        or _scale_folders(folder, inside)
        or _with_lr(folder, inside)
    )


def sets_of_clean(folder: Path) -> list[str]:
    """Returns the folders in a folder that hold clean images of a set each, e.g. DIV2K_train_HR."""
    return [child.name for name, child in folders_in(folder).items() if name.endswith("_hr")]


def _folder_pairs(folder: Path, inside: Mapping[str, Path]) -> Layout | None:
    """Finds a folder of degraded images beside one of clean images, such as rainy/ + clean/."""
    for degraded, clean in PAIRS:
        if degraded in inside and clean in inside:
            lq, hq = (picture_files(inside[side], below=True) for side in (degraded, clean))
            return _pairs(folder, lq, hq, f"pairs {degraded}/ + {clean}/")
    return None


def _folder_versions(folder: Path, inside: Mapping[str, Path]) -> Layout | None:
    """Finds a folder with several degraded images of each clean one, such as Rain1400.

    Each degraded image is an entry of the layout, under its own name.
    """
    for degraded, clean in VERSIONS:
        if degraded not in inside or clean not in inside:
            continue
        lq, hq = (picture_files(inside[side], below=True) for side in (degraded, clean))
        words = f"pairs {degraded}/ + {clean}/"
        one_to_one = match_pairs(hq, lq)
        if not one_to_one.alone and not one_to_one.extra:
            return _pairs(folder, lq, hq, words)
        found, match = match_versions(hq, lq)
        _refuse(match, f"{folder}: {words}", "degraded image", lq)
        hq = {name: hq[start] for name, start in found.items()}
        return _sized(folder, {name: lq[name] for name in hq}, hq, f"{words}, many to one")
    return None


def _rain_pairs(folder: Path, inside: Mapping[str, Path]) -> Layout | None:
    """Finds clean images norain-x in the folder, with rain-x beside them or in rainy/."""
    if not any(path.name.startswith("norain-") for path in folder.iterdir()):
        return None
    here = picture_files(folder)
    hq = {
        name.removeprefix("no"): path for name, path in here.items() if name.startswith("norain-")
    }
    rest = {name: path for name, path in here.items() if not name.startswith("norain-")}
    place, prefix = (inside["rainy"], "rainy/") if "rainy" in inside else (folder, "")
    lq = rest if place == folder else picture_files(place)
    lq = {name: path for name, path in lq.items() if not name.startswith(_RAIN_LAYERS)}
    if not any(name.startswith("rain-") for name in lq):
        return None
    return _pairs(folder, lq, hq, f"pairs {prefix}rain-x + norain-x")


def _scene_pairs(folder: Path, inside: Mapping[str, Path]) -> Layout | None:
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
    return _pairs(folder, lq, hq, "pairs blur/ + sharp/ of each scene")


def _scale_folders(folder: Path, inside: Mapping[str, Path]) -> Layout | None:
    """Finds image_SRF_2/x_SRF_2_HR.png and x_SRF_2_LR.png, as in SelfExSR's benchmark sets.

    The clean images of a scale are cut to its multiples, so each scale has its own. Files of other
    methods (x_SRF_2_bicubic.png) are not used.
    """
    hq: dict[int, dict[str, Path]] = {}
    lq: dict[int, dict[str, Path]] = {}
    for scale in SCALES:
        place = inside.get(f"image_srf_{scale}")
        for name, path in picture_files(place).items() if place else ():
            found = re.fullmatch(rf"(.+)_SRF_{scale}_(HR|LR)", name, re.IGNORECASE)
            if found:
                side = hq if found[2].upper() == "HR" else lq
                side.setdefault(scale, {})[found[1]] = path
    if not hq:
        return None
    names = set().union(*hq.values())
    for scale, files in hq.items():
        missing = sorted(names - files.keys())
        if missing:
            raise DataError(f"{folder}: image_SRF_{scale} has no clean image {listed(missing)}")
    for scale, files in lq.items():
        match = match_pairs(hq.get(scale, {}), files)
        _refuse(match, f"{folder}/image_SRF_{scale}", "low-resolution image", files)
        check_sizes(files, hq[scale], scale)
    words = "image_SRF_x/, HR of each scale; " + _words_of_scales(lq)
    return Layout(folder.name, folder, hq[min(hq)], lq, False, words, hq_of_scale=hq)


def _with_lr(folder: Path, inside: Mapping[str, Path]) -> Layout | None:
    """Finds clean images and low-resolution ones: HR/ + LR_bicubic/X2, DIV2K_train_HR/ + ..."""
    sets = sets_of_clean(folder)
    if len(sets) == 1 and not set(CLEAN) & inside.keys():
        prefix = sets[0][:-2].lower()
        inside = {name.removeprefix(prefix): child for name, child in inside.items()}
    if not set(CLEAN) & inside.keys():
        return None
    places = dict(inside) | {
        f"{name}/{below}": path
        for name, child in inside.items()
        for below, path in folders_in(child).items()
    }
    bicubic, unknown = (_scales_in(places, keys) for keys in (LR, LR_UNKNOWN))
    if not bicubic and not unknown:
        return None
    called = next(
        (inside[name] for name in CLEAN if name in inside and picture_files(inside[name])), None
    )
    if called is None:
        return None
    hq = picture_files(called)
    lq = {}
    for scale, place in (bicubic or unknown).items():
        files = picture_files(place)
        match = match_pairs(hq, files)
        _refuse(match, str(place), "low-resolution image", files)
        lq[scale] = {name: files[other] for name, other in match.partners.items()}
        if not bicubic:
            check_sizes(lq[scale], hq, scale)
    if not bicubic:
        words = f"pairs {called.name}/ + LR_unknown/ {' '.join(f'x{scale}' for scale in lq)}"
        return Layout(folder.name, folder, hq, lq, True, words)
    words = f"{called.name}/, {_words_of_scales(lq)}"
    unused = ("LR_bicubic", "LR_unknown") if unknown else ()
    if unknown:
        words += "; LR_unknown is not used"
    return Layout(folder.name, folder, hq, lq, False, words, unused=unused)


def _scales_in(places: Mapping[str, Path], keys: tuple[str, ...]) -> dict[int, Path]:
    """Returns the folder of each scale that holds images; the first of `keys` counts."""
    found = {}
    for scale in SCALES:
        names = (key.format(scale) for key in keys)
        place = next((places[name] for name in names if name in places), None)
        if place is not None and picture_files(place):
            found[scale] = place
    return found


def _clean_only(folder: Path, hq: Mapping[str, Path], called: str) -> Layout:
    return Layout(folder.name, folder, hq, {}, False, f"{called}/; {_words_of_scales({})}")


def _words_of_scales(lq: Mapping[int, object]) -> str:
    """Returns which scales have low-resolution files and for which these are made, in words."""
    there = f"LR from files {' '.join(f'x{scale}' for scale in lq)}" if lq else ""
    made = [f"x{scale}" for scale in SCALES if scale not in lq]
    return "; ".join(
        part for part in (there, f"LR made for {' '.join(made)}" if made else "") if part
    )


def _pairs(
    folder: Path, lq: Mapping[str, Path], hq: Mapping[str, Path], words: str
) -> Layout | None:
    """Matches the images of a set of pairs by name."""
    if not lq and not hq:
        return None
    match = match_pairs(hq, lq)
    _refuse(match, f"{folder}: {words}", "degraded image", lq)
    partners = {name: lq[match.partners[name]] for name in hq}
    return _sized(folder, partners, hq, words)


def _refuse(match: Match, where: str, what: str, there: Mapping[str, Path]) -> None:
    """Raises DataError if an image has no partner."""
    reason = explain(match, what, there)
    if reason:
        raise DataError(f"{where}: {reason}; docs/evaluation.md says which names are partners")


def _sized(folder: Path, lq: Mapping[str, Path], hq: Mapping[str, Path], words: str) -> Layout:
    """Returns the layout of matched pairs; the first pair with readable headers gives the scale."""
    sizes = ((name, _size(lq[name]), _size(hq[name])) for name in hq)
    name, small, big = next(
        (found for found in sizes if found[1] and found[2]), (next(iter(hq)), None, None)
    )
    if not small or not big:
        # None of the headers can be read: decoding the first pair raises the reason.
        small, big = (read_picture(side[name]).shape[1::-1] for side in (lq, hq))
    scale = next(
        (s for s in (1, *SCALES) if all(b // s == a for a, b in zip(small, big, strict=True))), 0
    )
    if not scale:
        raise DataError(
            f"{folder}: the sizes of the pair {lq[name].name} ({small[0]}x{small[1]}) and "
            f"{hq[name].name} ({big[0]}x{big[1]}) do not match"
        )
    check_sizes(lq, hq, scale)
    return Layout(folder.name, folder, hq, {scale: lq}, True, words)


def check_sizes(lq: Mapping[str, Path], hq: Mapping[str, Path], scale: int) -> None:
    """Checks that the sizes of all pairs fit to a scale, from the headers of the files.

    Files whose header cannot be read are left to those who decode them. A clean image may exceed
    the scaled degraded one by a remainder: sides in benchmark sets are not always multiples.

    Raises:
      DataError: sizes do not match; the message names the files.
    """
    wrong = []
    for name, path in lq.items():
        small, big = _size(path), _size(hq[name])
        if small and big and any(b // scale != s for s, b in zip(small, big, strict=True)):
            wrong.append(f"{path} ({small[0]}x{small[1]}) and {hq[name]} ({big[0]}x{big[1]})")
    if wrong:
        raise DataError(
            f"{len(wrong)} pair(s) whose sizes do not match at x{scale}: {listed(wrong, 3)}"
        )


def _size(path: Path) -> tuple[int, int] | None:
    """Returns width and height from the header, after the EXIF orientation; None if unreadable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_image_file(path) as stream, Image.open(stream) as image:
                width, height = image.size
                turned = image.getexif().get(ORIENTATION, 1) >= 5
    except (OSError, ValueError, SyntaxError):
        return None
    return (height, width) if turned else (width, height)
