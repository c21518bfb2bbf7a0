"""The error that all data raises, and the checks and wordings that the sources share."""

from __future__ import annotations

import hashlib
import heapq
import os
from collections.abc import Iterable
from typing import Any

from ipt_jax.errors import UserError

SPLITS = ("train", "eval", "all")


class DataError(UserError):
    """Data that is missing or unusable; the message is one line and meant for the user."""


def check_split(split: str) -> None:
    """Raises DataError unless `split` is "train", "eval" or "all"."""
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r} (known: {', '.join(SPLITS)})")


def check_held_out(split: str, held_out: int, total: int, what: str) -> None:
    """Raises DataError unless holding out `held_out` of `total` pictures leaves some for `split`."""
    if not total:
        raise DataError(f"{what} is empty")
    if not 0 <= held_out < total:
        raise DataError(f"data.held_out={held_out} must be between 0 and {total - 1}: {what} has {total} pictures")
    if split == "eval" and not held_out:
        raise DataError(f"data.held_out=0 leaves no pictures of {what} for evaluation; set it to 1 or more")


def reachable(path: Any, what: str) -> None:
    """Raises DataError if a gs:// path (etils') cannot be opened because what opens such paths is not installed."""
    try:
        path.exists()
    except ImportError as error:
        raise DataError(f"{what}={os.fspath(path)}: {first_line(error)}: pip install gcsfs") from error


def first_line(error: Exception) -> str:
    """The first line of another library's error, to be quoted in one of ours."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def listed(names: Iterable[str], limit: int = 5) -> str:
    """The first names of many, and how many more there are."""
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def held_out_names(names: Iterable[str], held_out: int) -> set[str]:
    """The `held_out` names with the smallest hashes, so that a file more or less changes at most one of them."""
    return set(heapq.nsmallest(held_out, names, key=lambda name: hashlib.sha256(os.fsencode(name)).digest()))
