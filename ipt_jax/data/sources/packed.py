"""Packed sets: the images of a folder in a few array_record files, described by a JSON file.

`ipt data prepare folder` writes them (:mod:`ipt_jax.data.prepare.pack`). Each record holds the
bytes of an image file. Order, names, held-out images and therefore batches are those of the folder.

`packed.json` holds:

- `format`, `version`: "ipt_jax packed pictures" and 1;
- `pictures`, `bytes`: number of images and of their bytes;
- `shards`: a list of `{file, pictures, bytes, sha256}`;
- `names`, `crc32`: relative path and checksum of each image, in order.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from typing import Any

from ipt_jax.data.sources.held_out import check_held_out, check_split, held_out_names
from ipt_jax.errors import DataError, DecodeError
from ipt_jax.messages import first_line, listed
from ipt_jax.storage import check_regular, expanded, is_remote, reachable

DESCRIPTION = "packed.json"
FORMAT = "ipt_jax packed pictures"
VERSION = 1


class Packed:
    """The images of a packed set, as the bytes of the files that were packed.

    Args:
      directory: the folder that holds packed.json; local or gs://.
      split: "train" (all but the held-out images), "eval" (only these) or "all".
      held_out: number of held-out images, chosen as in `Folder`.

    Raises:
      DataError: the folder holds no packed set, or the set lacks files, has a later version, or is
        damaged.
    """

    def __init__(self, directory: str | os.PathLike[str], split: str = "all", held_out: int = 0):
        check_split(split)
        self._directory = os.fspath(directory)
        self._description = description = read_description(self._directory)
        names = description["names"]
        check_held_out(split, held_out, len(names), f"packed set {self._directory}")
        held = held_out_names(names, held_out)
        places = sorted(i for i, name in enumerate(names) if name in held)
        self._split, self._held, self._total = split, places, len(names)
        self._records: Any = None

    def __len__(self) -> int:
        return {
            "all": self._total,
            "eval": len(self._held),
            "train": self._total - len(self._held),
        }[self._split]

    def __getitem__(self, i: int) -> bytes:
        place = self._place(i)
        if self._records is None:
            self._records = _open_records(self._directory, self._described()["shards"])
        try:
            return self._records[place]
        except Exception as error:
            # A damaged record may be replaced; storage that fails now may work later (see `Tfds`).
            kind = DecodeError if "Corrupted" in str(error) else DataError
            raise kind(
                f"cannot read {self.name(i)} in {self._directory}: {first_line(error)}"
            ) from error

    def name(self, i: int) -> str:
        return self._described()["names"][self._place(i)]

    def checksum(self, i: int) -> int:
        """Returns the CRC-32 of image i when it was packed."""
        return self._described()["crc32"][self._place(i)]

    def fingerprint(self) -> str:
        """Returns the digest of all names and checksums."""
        digest = hashlib.sha256()
        for i in range(len(self)):
            digest.update(os.fsencode(f"{self.name(i)}\0{self.checksum(i)}\0"))
        return digest.hexdigest()

    def _place(self, i: int) -> int:
        """Returns the position in the entire set of image i of the split."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        if self._split == "all":
            return i
        if self._split == "eval":
            return self._held[i]
        for held in self._held:
            i += i >= held
        return i

    def _described(self) -> dict[str, Any]:
        # A worker reads the description when it needs it, so that a million names are not pickled.
        if self._description is None:
            self._description = read_description(self._directory)
        return self._description

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_records": None, "_description": None}


def read_description(directory: str) -> dict[str, Any]:
    """Reads the description of a packed set and checks it against the files in its folder.

    Raises:
      DataError: as for `Packed`.
    """
    if not directory:
        raise DataError("data.dir is empty: give the folder that `ipt data prepare folder` made")
    folder = expanded(directory)
    reachable(folder, "data.dir")
    path = folder / DESCRIPTION
    if not path.exists():
        there = listed(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else None
        what = (
            "that folder does not exist"
            if there is None
            else f"the folder holds {there or 'nothing'}"
        )
        raise DataError(
            f"no packed set in {directory}: no {DESCRIPTION}; {what}. To make one: ipt data "
            "prepare folder"
        )
    if not is_remote(path):
        try:
            check_regular(path)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from None
    try:
        description = json.loads(path.read_text())
        known, version = description["format"], int(description["version"])
        if known == FORMAT and version <= VERSION:
            shards = {str(shard["file"]): int(shard["bytes"]) for shard in description["shards"]}
            counts = {
                sum(int(shard["pictures"]) for shard in description["shards"]),
                len(description["names"]),
                len(description["crc32"]),
            }
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} does not describe a packed set ({type(error).__name__}: {first_line(error)})"
        ) from error
    if known != FORMAT:
        raise DataError(f"{path} is of format {known!r}, not {FORMAT!r}")
    if version > VERSION:
        raise DataError(
            f"{path} is of version {version}; this version of ipt_jax reads up to {VERSION}: "
            "update it"
        )
    if len(counts) > 1:
        raise DataError(f"{path} is damaged: it counts its images differently in different places")
    sizes = {p.name: p.stat().length for p in folder.iterdir() if p.name in shards}
    wrong = [
        f"{name} ({'missing' if name not in sizes else f'{sizes[name]} bytes instead of {size}'})"
        for name, size in shards.items()
        if sizes.get(name) != size
    ]
    if wrong:
        raise DataError(
            f"packed set {directory} lacks {len(wrong)} of its {len(shards)} files: {listed(wrong)}"
        )
    return description


def crc32(data: bytes) -> int:
    """Returns the checksum that a packed set keeps of each image."""
    return zlib.crc32(data)


def _open_records(directory: str, shards: list[dict[str, Any]]) -> Any:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    folder = expanded(directory)
    return ArrayRecordDataSource(
        [f"{os.fspath(folder / s['file'])}[0:{s['pictures']}]" for s in shards]
    )
