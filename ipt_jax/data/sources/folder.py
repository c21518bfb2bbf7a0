"""Images in a folder and its subfolders, in the order of their relative paths.

The order, the names and the choice of held-out images depend only on the relative paths, so a
folder can be moved or copied.
"""

from __future__ import annotations

import hashlib
import os
import pathlib

from ipt_jax.data.files import DANGLING, Files, find_files, is_dangling
from ipt_jax.data.sources.held_out import check_held_out, check_split, held_out_names
from ipt_jax.errors import DataError, DecodeError, NotRegular
from ipt_jax.images.files import read_image_file
from ipt_jax.images.formats import SUFFIXES, describe_left_out
from ipt_jax.messages import listed, printable
from ipt_jax.storage import open_regular

# The most images whose content goes into the fingerprint.
SAMPLED = 1024


class Folder:
    """All images in a folder and its subfolders, sorted by relative path.

    Args:
      directory: a folder with PNG, JPEG, WebP, BMP, TIFF or AVIF files, recognised by their
        suffix. Hidden files and folders are skipped, and links are followed. A link to a file that
        does not exist is an image that cannot be read.
      split: "train" (all but the held-out images), "eval" (only these) or "all".
      held_out: number of held-out images. They have the names with the smallest hashes, so adding
        or removing a file changes at most one of them.

    Attributes:
      left_out: which files are left out because of their suffix, in words; "" for none.

    Raises:
      DataError: the folder is missing or has no images, or `held_out` leaves one of the splits
        empty.
    """

    def __init__(self, directory: str | os.PathLike[str], split: str = "all", held_out: int = 0):
        check_split(split)
        directory = os.fspath(directory)
        self._directory = os.path.expanduser(directory)
        names, others = list_pictures(self._directory, shown=directory)
        self.left_out = describe_left_out(others)
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
        path = pathlib.Path(self._directory, name)
        try:
            return read_image_file(path)
        except OSError as error:
            # The same link is dangling at every start, so another image may replace it.
            if is_dangling(path):
                raise DecodeError(DANGLING) from None
            raise DataError(
                f"cannot read {printable(name)} in {self._directory}: {error.strerror}"
            ) from error

    def name(self, i: int) -> str:
        return self._names[i]

    def fingerprint(self) -> str:
        """Returns the digest of all names and sizes, and of 4 KiB of up to `SAMPLED` images.

        These bytes come from the middle of each file.
        """
        if not self._fingerprint:
            digest = hashlib.sha256()
            every = -(-len(self) // SAMPLED)
            for i, name in enumerate(self._names):
                path = os.path.join(self._directory, name)
                if is_dangling(path):
                    digest.update(os.fsencode(f"{name}\0dangling\0"))
                    continue
                try:
                    size = os.stat(path).st_size
                    digest.update(os.fsencode(f"{name}\0{size}\0"))
                    if i % every == 0:
                        with open_regular(path) as file:
                            file.seek(max(0, size // 2 - 2048))
                            digest.update(file.read(4096))
                except NotRegular:
                    # It counts as an unreadable image when it is read.
                    digest.update(b"not a regular file")
                except OSError as error:
                    raise DataError(
                        f"cannot read {printable(name)} in {self._directory}: {error.strerror}"
                    ) from error
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


def list_pictures(directory: str, shown: str) -> Files:
    """Returns the files below a local folder.

    Args:
      directory: the folder.
      shown: the folder as the user wrote it, for messages.

    Raises:
      DataError: the folder is missing, remote, or has no images.
    """
    if not shown:
        raise DataError("data.dir is empty: give the folder that holds the images")
    if "://" in shown:
        raise DataError(
            f"{shown}: folders must be local; copy it, or use data.source=packed or "
            "data.source=tfds, which read gs://"
        )
    if not os.path.exists(directory):
        raise DataError(f"folder not found: {shown} (looked at {os.path.abspath(directory)})")
    if not os.path.isdir(directory):
        raise DataError(f"not a folder: {shown}; give the folder that holds the images")
    names, others = find_files(directory)
    if not names:
        there = (
            f"found only {listed(others)}; {describe_left_out(others)}" if others else "it is empty"
        )
        raise DataError(f"no images ({', '.join(SUFFIXES)}) in folder {shown}: {there}")
    return Files(names, others)
