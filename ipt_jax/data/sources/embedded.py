"""The photographs that scikit-image ships: enough for a demo without a download.

They are decoded once and kept in memory.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import pathlib

import numpy as np

from ipt_jax.data.sources.held_out import check_split
from ipt_jax.errors import DataError
from ipt_jax.images.decode import decode
from ipt_jax.versions import install

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")

HELD_OUT = "coffee.png"


class Embedded:
    """The photographs that scikit-image ships, as read-only arrays uint8 `[H, W, 3]`.

    Args:
      split: "train" (all but `HELD_OUT`), "eval" (only that one) or "all".

    Raises:
      DataError: scikit-image or one of its photographs is missing.
    """

    def __init__(self, split: str = "train"):
        check_split(split)
        self._names = [
            name
            for name in PHOTOGRAPHS
            if split in ("all", "eval" if name == HELD_OUT else "train")
        ]
        self._folder = _find_folder()
        for name in self._names:
            _photograph(self._folder / name)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, i: int) -> np.ndarray:
        return _photograph(self._folder / self._names[i])

    def name(self, i: int) -> str:
        """Returns the photograph's path within site-packages."""
        return f"skimage/data/{self._names[i]}"

    def fingerprint(self) -> str:
        """Returns the digest of all pixels."""
        digest = hashlib.sha256()
        for i in range(len(self)):
            digest.update(repr(self[i].shape).encode() + self[i].tobytes())
        return digest.hexdigest()


def embedded(split: str = "train") -> Embedded:
    """Returns `Embedded(split)`."""
    return Embedded(split)


def _find_folder() -> pathlib.Path:
    # The package's folder, because skimage.data's functions download what they do not find in it.
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise DataError(f"the embedded photographs need scikit-image: {install('demo')}")
    return pathlib.Path(spec.origin).parent / "data"


@functools.cache
def _photograph(path: pathlib.Path) -> np.ndarray:
    try:
        image = decode(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"this version of scikit-image does not ship {path.name} (looked in {path.parent})"
        ) from None
    # All callers share this array.
    image.flags.writeable = False
    return image
