"""Pairs of degraded and clean images in a folder, for tasks without a synthetic degradation.

The layouts are those of `ipt evaluate` (see :mod:`ipt_jax.data.layouts`). Names of partners and
sizes are checked once, when the source is opened.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ipt_jax.data.files import DANGLING, find_files, is_dangling
from ipt_jax.data.layouts import LOOKED_FOR, check_sizes, sets_of_clean, understand
from ipt_jax.data.sources.held_out import (
    check_held_out,
    check_split,
    held_out_names,
    in_order_of_hashes,
)
from ipt_jax.errors import DataError, DecodeError, NotRegular
from ipt_jax.images.decode import decode
from ipt_jax.images.files import read_image_file
from ipt_jax.images.formats import describe_left_out
from ipt_jax.messages import listed, printable
from ipt_jax.storage import open_regular


class Pairs:
    """All pairs of a folder, in the order of their names.

    Args:
      directory: a folder with, for example, `rainy/` and `clean/`, `input/` and `target/`, `blur/`
        and `sharp/` (also within folders of scenes), or `HR/` and `LR_bicubic/X2/`.
      split: "train" (all but the held-out pairs), "eval" (only these) or "all".
      held_out: number of held-out pairs: those with the smallest hashes of their names. In a set
        with several degraded images of each clean one, they are chosen by the names of the clean
        images, and no pair of such a clean image is left for training.
      scale: side of a clean image divided by that of its degraded image; 0 to use the only scale
        that the folder holds.

    Attributes:
      scale: of the pairs.
      left_out: which files are left out because of their suffix, in words; "" for none.

    Raises:
      DataError: the folder does not exist or holds no pairs in a known layout, an image has no
        partner, sizes do not match, or there are several scales to choose from.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        split: str = "all",
        held_out: int = 0,
        scale: int = 0,
    ):
        check_split(split)
        shown = os.fspath(directory)
        folder = Path(shown).expanduser()
        if not shown or not folder.is_dir():
            raise DataError(
                f"data.dir={shown!r}: "
                f"{'no folder is named' if not shown else 'there is no such folder'}; give one "
                "that holds pairs of folders, such as input/ and target/"
            )
        found = understand(folder)
        if found is None or not found.lq:
            there = listed(sorted(child.name for child in folder.iterdir()), 8) or "nothing"
            several = sets_of_clean(folder)
            if len(several) > 1:
                there += (
                    f"; {listed(several)} belong to several sets: put the folders of one set, or "
                    "links to them, into a folder of their own"
                )
            raise DataError(
                f"{shown}: no pairs in a layout that is known ({LOOKED_FOR}); there is: {there}"
            )
        if found.unused:
            raise DataError(
                f"{shown}: {' and '.join(found.unused)} both hold degraded images; put the clean "
                "images and one of the two, or links to them, into a folder of their own"
            )
        if (scale or next(iter(found.lq))) not in found.lq or (not scale and len(found.lq) > 1):
            raise DataError(
                f"{shown}: the pairs are x{', x'.join(map(str, found.lq))}; the task is "
                f"{f'x{scale}' if scale else 'for one scale: give it'}"
            )
        self.scale = scale or next(iter(found.lq))
        lq, hq = found.lq[self.scale], found.clean(self.scale)
        check_held_out(split, held_out, len(lq), f"{shown} ({found.words})")
        names = _names_of_split(hq, split, held_out)
        if not names:
            raise DataError(
                f"data.held_out={held_out} leaves no pairs for training: {shown} holds "
                f"{len(set(hq.values()))} clean images"
            )
        check_sizes({name: lq[name] for name in names}, hq, self.scale)
        self.left_out = describe_left_out(find_files(folder).others)
        self._names = names
        self._files = {name: (str(lq[name]), str(hq[name])) for name in names}

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, i: int) -> tuple[bytes, bytes]:
        """Returns the encoded files (lq, hq)."""
        try:
            small, big = (read_image_file(file) for file in self._files[self._names[i]])
        except OSError as error:
            if is_dangling(error.filename):
                raise DecodeError(f"{printable(error.filename)} is {DANGLING}") from None
            raise DataError(f"cannot read {printable(error.filename)}: {error.strerror}") from error
        return small, big

    def name(self, i: int) -> str:
        return self._names[i]

    def fingerprint(self) -> str:
        """Returns the digest of all names and sizes, and of 4 KiB from the middle of each file."""
        digest = hashlib.sha256()
        for name in self._names:
            for file in self._files[name]:
                if is_dangling(file):
                    digest.update(os.fsencode(f"{name}\0dangling\0"))
                    continue
                try:
                    size = os.stat(file).st_size
                    digest.update(os.fsencode(f"{name}\0{size}\0"))
                    with open_regular(file) as stream:
                        stream.seek(max(0, size // 2 - 2048))
                        digest.update(stream.read(4096))
                except NotRegular:
                    # It counts as an unreadable image when it is read.
                    digest.update(b"not a regular file")
                except OSError as error:
                    raise DataError(f"cannot read {printable(file)}: {error.strerror}") from error
        return digest.hexdigest()


def _names_of_split(hq: Mapping[str, Path], split: str, held_out: int) -> list[str]:
    """Returns the names of the pairs of a split.

    Args:
      hq: name of a pair -> its clean image, which may belong to several pairs.
      split: "train", "eval" or "all".
      held_out: number of held-out pairs.
    """
    if split == "all":
        return list(hq)
    if len(set(hq.values())) == len(hq):
        held = held_out_names(hq, held_out)
        return [name for name in hq if (name in held) == (split == "eval")]
    folder = os.path.commonpath([path.parent for path in hq.values()])
    pairs: dict[str, list[str]] = {}
    for name, path in hq.items():
        pairs.setdefault(path.relative_to(folder).as_posix(), []).append(name)
    first: list[str] = []
    for clean in in_order_of_hashes(pairs):
        if len(first) < held_out:
            first += pairs.pop(clean)
    left = [name for own in pairs.values() for name in own]
    chosen = set(first[:held_out] if split == "eval" else left)
    return [name for name in hq if name in chosen]


def decode_pair(
    raw: tuple[bytes, bytes], scale: int, warn: Callable[[str], object] = lambda text: None
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes a pair; a remainder of the clean image is cut off.

    Args:
      raw: the encoded degraded and clean image.
      scale: how many times larger the clean image is.
      warn: see `decode`.

    Returns:
      lq uint8 `[H, W, 3]` and hq uint8 `[H * scale, W * scale, 3]`.

    Raises:
      DecodeError: either image cannot be read, or their sizes do not match.
    """
    lq, hq = (decode(data, warn=warn) for data in raw)
    height, width = lq.shape[:2]
    if (hq.shape[0] // scale, hq.shape[1] // scale) != (height, width):
        raise DecodeError(
            f"the pair's sizes do not match: {width}x{height} and {hq.shape[1]}x{hq.shape[0]} at "
            f"x{scale}"
        )
    return lq, np.ascontiguousarray(hq[: height * scale, : width * scale])
