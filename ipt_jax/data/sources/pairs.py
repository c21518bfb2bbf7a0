"""Pairs of degraded and clean images in a folder, for tasks without a synthetic degradation.

The layouts are those of `ipt evaluate` (see :mod:`ipt_jax.data.layouts`). Names of partners and
sizes are checked once, when the source is opened.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ipt_jax.data.layouts import LOOKED_FOR, picture_files, understand
from ipt_jax.data.sources.held_out import check_held_out, check_split, held_out_names
from ipt_jax.errors import DataError, DecodeError, NotRegular
from ipt_jax.images.decode import decode
from ipt_jax.images.files import open_image_file, read_image_file
from ipt_jax.images.metadata import ORIENTATION
from ipt_jax.messages import listed, printable
from ipt_jax.storage import open_regular


class Pairs:
    """All pairs of a folder, in the order of their names.

    Args:
      directory: a folder with, for example, `rainy/` and `clean/`, `input/` and `target/`, `blur/`
        and `sharp/` (also within folders of scenes), or `HR/` and `LR_bicubic/X2/`.
      split: "train" (all but the held-out pairs), "eval" (only these) or "all".
      held_out: number of held-out pairs: those with the smallest hashes of their names.
      scale: side of a clean image divided by that of its degraded image; 0 to use the only scale
        that the folder holds.

    Attributes:
      scale: of the pairs.

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
            raise DataError(
                f"{shown}: no pairs in a layout that is known ({LOOKED_FOR}); there is: {there}"
            )
        if (scale or next(iter(found.lq))) not in found.lq or (not scale and len(found.lq) > 1):
            raise DataError(
                f"{shown}: the pairs are x{', x'.join(map(str, found.lq))}; the task is "
                f"{f'x{scale}' if scale else 'for one scale: give it'}"
            )
        self.scale = scale or next(iter(found.lq))
        lq, hq = found.lq[self.scale], found.hq
        extra = _unpaired(lq, hq)
        if extra:
            raise DataError(
                f"{shown}: {len(hq)} clean and {len(hq) + len(extra)} degraded images; without a "
                f"clean one: {listed(extra)}"
            )
        names = list(hq)
        check_held_out(split, held_out, len(names), f"{shown} ({found.words})")
        if split != "all":
            held = held_out_names(names, held_out)
            names = [name for name in names if (name in held) == (split == "eval")]
        self._names = names
        self._files = {name: (str(lq[name]), str(hq[name])) for name in names}
        self._check_sizes()

    def _check_sizes(self) -> None:
        wrong = []
        for small, big in self._files.values():
            try:
                sizes = _size(small), _size(big)
            # A damaged file is reported when it is decoded, and then replaced.
            except (OSError, ValueError, SyntaxError):
                continue
            if tuple(side * self.scale for side in sizes[0]) != sizes[1] and not _floored(
                *sizes, self.scale
            ):
                wrong.append(
                    f"{small} ({sizes[0][0]}x{sizes[0][1]}) and {big} ({sizes[1][0]}x{sizes[1][1]})"
                )
        if wrong:
            raise DataError(
                f"{len(wrong)} pair(s) whose sizes do not match at x{self.scale}: "
                f"{listed(wrong, 3)}"
            )

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, i: int) -> tuple[bytes, bytes]:
        """Returns the encoded files (lq, hq)."""
        try:
            small, big = (read_image_file(file) for file in self._files[self._names[i]])
        except OSError as error:
            raise DataError(f"cannot read {printable(error.filename)}: {error.strerror}") from error
        return small, big

    def name(self, i: int) -> str:
        return self._names[i]

    def fingerprint(self) -> str:
        """Returns the digest of all names and sizes, and of 4 KiB from the middle of each file."""
        digest = hashlib.sha256()
        for name in self._names:
            for file in self._files[name]:
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


def _unpaired(lq: Mapping[str, Path], hq: Mapping[str, Path]) -> list[str]:
    """Returns the degraded images without a clean partner, in the folders of those with one."""
    taken = {str(path) for path in (*lq.values(), *hq.values())}
    folders = {path.parent for path in lq.values()} - {path.parent for path in hq.values()}
    return [
        path.name
        for folder in sorted(folders)
        for path in picture_files(folder).values()
        if str(path) not in taken
    ]


def _size(file: str) -> tuple[int, int]:
    """Returns width and height from the header, after the EXIF orientation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with open_image_file(file) as stream, Image.open(stream) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION, 1) >= 5
    return (height, width) if turned else (width, height)


def _floored(small: tuple[int, int], big: tuple[int, int], scale: int) -> bool:
    """Tells whether the clean image exceeds the scaled degraded image by a remainder only.

    Some benchmark sets have such pairs: their sides are not multiples of the scale.
    """
    return scale > 1 and all(b // scale == s for s, b in zip(small, big, strict=True))


def decode_pair(raw: tuple[bytes, bytes], scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Decodes a pair; a remainder of the clean image is cut off.

    Returns:
      lq uint8 `[H, W, 3]` and hq uint8 `[H * scale, W * scale, 3]`.

    Raises:
      DecodeError: either image cannot be read, or their sizes do not match.
    """
    lq, hq = (decode(data) for data in raw)
    height, width = lq.shape[:2]
    if (hq.shape[0] // scale, hq.shape[1] // scale) != (height, width):
        raise DecodeError(
            f"the pair's sizes do not match: {width}x{height} and {hq.shape[1]}x{hq.shape[0]} at "
            f"x{scale}"
        )
    return lq, np.ascontiguousarray(hq[: height * scale, : width * scale])
