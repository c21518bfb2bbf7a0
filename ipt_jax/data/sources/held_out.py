"""Splits: the choice of held-out images, and the checks that all sources share."""

from __future__ import annotations

import hashlib
import heapq
import os
from collections.abc import Iterable

from ipt_jax.errors import DataError

SPLITS = ("train", "eval", "all")


def check_split(split: str) -> None:
    """Raises DataError unless `split` is "train", "eval" or "all"."""
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r} (known: {', '.join(SPLITS)})")


def check_held_out(split: str, held_out: int, total: int, what: str) -> None:
    """Checks that a split is not empty.

    Args:
      split: "train", "eval" or "all".
      held_out: number of held-out images.
      total: number of images.
      what: names the source in messages.

    Raises:
      DataError: there are no images, or none are left for the split.
    """
    if not total:
        raise DataError(f"{what} is empty")
    if not 0 <= held_out < total:
        raise DataError(
            f"data.held_out={held_out} must be between 0 and {total - 1}: {what} has {total} images"
        )
    if split == "eval" and not held_out:
        raise DataError(
            f"data.held_out=0 leaves no images of {what} for evaluation; set it to 1 or more"
        )


def held_out_names(names: Iterable[str], held_out: int) -> set[str]:
    """Returns the `held_out` names with the smallest SHA-256 hashes.

    Adding or removing a file changes at most one of them.
    """
    return set(heapq.nsmallest(held_out, names, key=_hash_of))


def in_order_of_hashes(names: Iterable[str]) -> list[str]:
    """Returns names in the order of their SHA-256 hashes, which `held_out_names` takes them in."""
    return sorted(names, key=_hash_of)


def _hash_of(name: str) -> bytes:
    return hashlib.sha256(os.fsencode(name)).digest()
