"""The JSON record of a checkpoint: what was saved, with a fingerprint of each array and a checksum.

{"format": 1, "step": 20, "meta": {...}, "checksum": SHA-256 of all else,
 "leaves": {"params/body/kernel": ["float32", [64, 24], "58e000005f85aaf7"], ...}}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from ipt_jax.errors import CheckpointError

FORMAT = 1

# Name, dtype, shape and fingerprint of the saved arrays.
Leaves = Mapping[str, Sequence[Any]]


class Damaged(Exception):
    """A checkpoint exists but is not what was saved; the message says why."""


def make_record(
    step: int, meta: Mapping[str, Any], arrays: Mapping[str, Any], marks: Sequence[str]
) -> dict[str, Any]:
    """Returns the record of a checkpoint.

    Args:
      step: the step.
      meta: the caller's own entries.
      arrays: the arrays by name.
      marks: their fingerprints, in the same order.

    Raises:
      TypeError: `meta` is not JSON.
    """
    leaves = {
        name: [*_kind(array), mark]
        for (name, array), mark in zip(arrays.items(), marks, strict=True)
    }
    record = {"format": FORMAT, "step": step, "meta": dict(meta), "leaves": leaves}
    # The checksum is that of the record as it will be read: keys are strings, tuples are lists.
    record = json.loads(json.dumps(record))
    return {**record, "checksum": _checksum(record)}


def read_record(path: epath.Path, step: int) -> dict[str, Any]:
    """Reads a record from its file and checks it.

    Raises:
      Damaged: the file is missing or not JSON, its checksum differs, or it belongs to another step
        or format.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        checksum = record.pop("checksum")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{path}: {type(error).__name__}: {error}") from error
    if checksum != _checksum(record):
        raise Damaged(f"{path}: its checksum does not match")
    if record["format"] != FORMAT:
        raise Damaged(f"{path}: format {record['format']}, but this version reads {FORMAT}")
    if record["step"] != step:
        raise Damaged(f"{path}: this is step {record['step']}")
    return record


def meta_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the caller's entries, with `step` added."""
    return {**record["meta"], "step": record["step"]}


def check_wanted(wanted: Mapping[str, Any], saved: Leaves, what: str) -> None:
    """Checks that names, dtypes and shapes of the wanted arrays are those of the saved ones.

    Args:
      wanted: anything with dtype and shape, by name.
      saved: the record's leaves.
      what: the checkpoint, for the message.

    Raises:
      CheckpointError: they differ; the message lists every array that differs.
    """

    def shown(kind: Sequence[Any]) -> str:
        return f"{kind[0]}{list(kind[1])}"

    lines = [
        f"missing: {name} {shown(_kind(x))}" for name, x in wanted.items() if name not in saved
    ]
    lines += [
        f"unexpected: {name} {shown(kind)}" for name, kind in saved.items() if name not in wanted
    ]
    lines += [
        f"differs: {name} was saved as {shown(saved[name])}, but {shown(_kind(x))} is wanted"
        for name, x in wanted.items()
        if name in saved and list(saved[name][:2]) != _kind(x)
    ]
    if lines:
        raise CheckpointError(f"{what} is not the state that is wanted:\n  " + "\n  ".join(lines))


def check_arrays(arrays: Mapping[str, Any], marks: Sequence[str], saved: Leaves) -> None:
    """Checks that dtypes, shapes and fingerprints of loaded arrays are those that were saved.

    Raises:
      Damaged: they differ; the message names the arrays.
    """
    changed = [
        name
        for (name, array), mark in zip(arrays.items(), marks, strict=True)
        if [*_kind(array), mark] != list(saved[name])
    ]
    if changed:
        raise Damaged(
            f"{len(changed)} of {len(arrays)} arrays are not what was saved: {', '.join(changed)}"
        )


def _kind(array: Any) -> list[Any]:
    """Returns the dtype's name and the shape of an array."""
    return [str(np.dtype(array.dtype)), list(array.shape)]


def _checksum(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
