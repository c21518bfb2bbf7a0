"""The image files below a folder."""

from __future__ import annotations

import os
import pathlib
from typing import NamedTuple

from ipt_jax.images.formats import SUFFIXES

# Why a link to a file that does not exist counts as an image that cannot be read.
DANGLING = "a link to a file that does not exist"


class Files(NamedTuple):
    """The files below a folder, as sorted relative POSIX paths; hidden ones are left out.

    Attributes:
      images: those with the suffix of an image, also links to files that do not exist.
      others: all others.
    """

    images: list[str]
    others: list[str]


def find_files(directory: str | os.PathLike[str]) -> Files:
    """Returns the files in a local folder and its subfolders. Links are followed."""
    images: list[str] = []
    others: list[str] = []
    visited: set[str] = set()
    for parent, folders, files in os.walk(directory, followlinks=True):
        real = os.path.realpath(parent)
        # A link to a parent folder would never end.
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        for file in files:
            if not file.startswith("."):
                path = os.path.relpath(os.path.join(parent, file), directory)
                name = pathlib.PurePath(path).as_posix()
                (images if file.lower().endswith(SUFFIXES) else others).append(name)
    return Files(sorted(images), sorted(others))


def is_dangling(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path is a link to a file that does not exist."""
    return os.path.islink(path) and not os.path.exists(path)
