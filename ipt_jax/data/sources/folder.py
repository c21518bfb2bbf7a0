"""Random-access sources of pictures: what the pipeline draws its crops from.

A source is an immutable, picklable sequence of pictures, encoded or (where they are few) decoded. Nothing
open is ever pickled: every process opens its own files when it first reads.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib.util
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ipt_jax.data.sources.held_out import DataError, check_held_out, check_split, held_out_names, listed
from ipt_jax.data.sources.packed import Packed
from ipt_jax.data.sources.pairs import Pairs
from ipt_jax.data.sources.tfds import Tfds
from ipt_jax.images.decode import DecodeError, decode

__all__ = [
    "DataError",
    "DecodeError",
    "Embedded",
    "Folder",
    "Packed",
    "Pairs",
    "Source",
    "Tfds",
    "decode",
    "embedded",
    "open_source",
]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
HELD_OUT = "coffee.png"
SAMPLED = 1024


@runtime_checkable
class Source(Protocol):
    """A fixed, ordered set of pictures."""

    def __len__(self) -> int:
        """Number of pictures."""

    def __getitem__(self, i: int) -> bytes | np.ndarray | tuple[bytes, bytes]:
        """Picture i: encoded bytes for `decode`, or uint8 [H, W, 3], or (lq, hq) bytes. IndexError beyond the end."""

    def name(self, i: int) -> str:
        """What to call picture i in a message."""

    def fingerprint(self) -> str:
        """Hexadecimal digest of the content and its order; independent of where it is stored."""


def open_source(config_data: Mapping[str, Any], split: str = "train") -> Source:
    """Opens the source that a config's `data` section asks for.

    Args:
      config_data: `source` ("embedded", "folder", "pairs", "packed" or "tfds") and what that source needs of `dir`, `name`
        (default "imagenet2012"), `split` (of the TFDS set; default "train") and `held_out` (number of
        pictures kept for evaluation; default 0).
      split: "train", "eval" (the held-out pictures) or "all".

    Raises:
      DataError: unknown source or split, or data that is not there.
    """

    def get(key: str, default: Any) -> Any:
        value = config_data.get(key)
        return default if value is None or value == "" else value

    name = get("name", "imagenet2012")
    held_out = get("held_out", 0)
    openers: dict[str, Callable[[], Source]] = {
        "embedded": lambda: Embedded(split),
        "folder": lambda: Folder(get("dir", ""), split, held_out),
        "pairs": lambda: Pairs(get("dir", ""), split, held_out, get("scale", 0)),
        "packed": lambda: Packed(get("dir", ""), split, held_out),
        "tfds": lambda: Tfds(name, get("split", "train"), get("dir", None), split, held_out),
    }
    source = str(get("source", ""))
    if source not in openers:
        near = difflib.get_close_matches(source, openers, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"data.source: unknown source {source!r}{hint} (known: {', '.join(openers)})")
    return openers[source]()


class Embedded:
    """The photographs that scikit-image ships, as read-only arrays; nothing is downloaded.

    Args:
      split: "train" (all but `HELD_OUT`), "eval" (that one) or "all".

    Raises:
      DataError: scikit-image, or one of its photographs, is missing.
    """

    def __init__(self, split: str = "train"):
        check_split(split)
        self._names = [name for name in PHOTOGRAPHS if split in ("all", "eval" if name == HELD_OUT else "train")]
        for name in self._names:
            _photograph(name)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, i: int) -> np.ndarray:
        return _photograph(self._names[i])

    def name(self, i: int) -> str:
        return f"skimage/data/{self._names[i]}"

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for i in range(len(self)):
            digest.update(repr(self[i].shape).encode() + self[i].tobytes())
        return digest.hexdigest()


def embedded(split: str = "train") -> Embedded:
    """Same as `Embedded(split)`."""
    return Embedded(split)


@functools.cache
def _photograph(name: str) -> np.ndarray:
    # Read from the package's folder: skimage.data's functions download what they do not find there.
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise DataError('the embedded photographs need scikit-image: pip install "ipt_jax[demo]"')
    path = pathlib.Path(spec.origin).parent / "data" / name
    try:
        image = decode(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"this version of scikit-image does not ship {path.name} (looked in {path.parent})") from None
    image.flags.writeable = False  # All readers share it.
    return image


class Folder:
    """All pictures in a folder and its subfolders, sorted by relative path.

    Args:
      directory: folder with PNG, JPEG, WebP, BMP or TIFF files, known by their suffix. Hidden files and
        folders are skipped; links are followed.
      split: "train" (all but the held-out pictures), "eval" (these) or "all".
      held_out: number of pictures held out. They are those whose names have the smallest hashes, so a file
        more or less changes at most one of them.

    Raises:
      DataError: the folder is missing or has no pictures, or `held_out` leaves one of the splits empty.
    """

    def __init__(self, directory: str | os.PathLike[str], split: str = "all", held_out: int = 0):
        check_split(split)
        directory = os.fspath(directory)
        self._directory = os.path.expanduser(directory)
        names = list_pictures(self._directory, shown=directory)
        check_held_out(split, held_out, len(names), f"folder {directory}")
        if split != "all":
            held = held_out_names(names, held_out)
            names = [name for name in names if (name in held) == (split == "eval")]
        self._names = names
        self._fingerprint = ""

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, i: int) -> bytes:
        name = self._names[i]
        try:
            return pathlib.Path(self._directory, name).read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {name} in {self._directory}: {error.strerror}") from error

    def name(self, i: int) -> str:
        return self._names[i]

    def fingerprint(self) -> str:
        """Digest of all names and sizes, and of 4 KiB out of the middle of up to `SAMPLED` pictures."""
        if not self._fingerprint:
            digest = hashlib.sha256()
            every = -(-len(self) // SAMPLED)
            for i, name in enumerate(self._names):
                path = os.path.join(self._directory, name)
                try:
                    size = os.stat(path).st_size
                    digest.update(os.fsencode(f"{name}\0{size}\0"))
                    if i % every == 0:
                        with open(path, "rb") as file:
                            file.seek(max(0, size // 2 - 2048))
                            digest.update(file.read(4096))
                except OSError as error:
                    raise DataError(f"cannot read {name} in {self._directory}: {error.strerror}") from error
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


def list_pictures(directory: str, shown: str) -> list[str]:
    """Relative POSIX paths of the pictures, sorted."""
    if not shown:
        raise DataError("data.dir is empty: give the folder that holds the pictures")
    if "://" in shown:
        raise DataError(f"{shown}: folders must be local; copy it, or use data.source=tfds, which reads gs://")
    if not os.path.exists(directory):
        raise DataError(f"folder not found: {shown} (looked at {os.path.abspath(directory)})")
    if not os.path.isdir(directory):
        raise DataError(f"not a folder: {shown}; give the folder that holds the pictures")
    names: list[str] = []
    others: list[str] = []
    visited: set[str] = set()
    for parent, folders, files in os.walk(directory, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:  # A link back to a folder above would never end.
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        for file in files:
            if not file.startswith("."):
                name = pathlib.PurePath(os.path.relpath(os.path.join(parent, file), directory)).as_posix()
                (names if file.lower().endswith(SUFFIXES) else others).append(name)
    if not names:
        there = f"found only {listed(others)}" if others else "it is empty"
        raise DataError(f"no pictures ({', '.join(SUFFIXES)}) in folder {shown}: {there}")
    return sorted(names)
