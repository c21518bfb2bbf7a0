"""Resolved configs as plain dicts: what a run is, and how two runs differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from ipt_jax.config.defaults import MAY_CHANGE, default
from ipt_jax.tasks import make_tasks
from ipt_jax.trees import flatten


def data_of(config: Mapping[str, Any] | ConfigDict) -> dict[str, Any]:
    """Returns what `sources.open_source` needs.

    That is the `data` part of the config and, for pairs, the task's scale as "scale" (0 where the
    source has to find it).
    """
    data = dict(config["data"])
    if data["source"] == "pairs":
        data["scale"] = make_tasks(config["tasks"])[0].scale
    return data


def resolve(config: ConfigDict, schedule_steps: int = 0) -> dict[str, Any]:
    """Returns the config as a plain dict in which the schedule's length is settled.

    Args:
      config: a complete config.
      schedule_steps: the length with which the run began, 0 for a new run. It is used where
        `optim.schedule_steps` is 0; a new run uses `steps`.
    """
    resolved = config.to_dict()
    resolved["tasks"] = [
        task if isinstance(task, str) else dict(task) for task in resolved["tasks"]
    ]
    resolved["optim"]["schedule_steps"] = (
        config.optim.schedule_steps or schedule_steps or config.steps
    )
    return resolved


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], may_change: Sequence[str] = MAY_CHANGE
) -> list[str]:
    """Returns lines "key: old -> new" for the differences that a resumed run may not have.

    A key that is missing in `old`, because the run is older than the key, has its default.

    Args:
      old: the resolved config of the run.
      new: the resolved config to resume it with.
      may_change: keys or prefixes of keys that are not compared.
    """
    # Through JSON, so that tuples equal the lists of a stored config.
    defaults, a, b = (
        flatten(json.loads(json.dumps(tree))) for tree in (default().to_dict(), old, new)
    )
    a = {**defaults, **a}
    missing = "(none)"
    return [
        f"{key}: {a.get(key, missing)!r} -> {b.get(key, missing)!r}"
        for key in sorted({*a, *b})
        if not _is_covered(key, may_change) and a.get(key, missing) != b.get(key, missing)
    ]


def fingerprint(config: Mapping[str, Any]) -> str:
    """Returns a hexadecimal digest of all keys that a resumed run may not change."""
    fixed = {
        key: value for key, value in flatten(config).items() if not _is_covered(key, MAY_CHANGE)
    }
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]


def _is_covered(key: str, names: Sequence[str]) -> bool:
    """Whether a key is one of the names or has one that ends in a dot as its prefix."""
    return any(key == name or (name.endswith(".") and key.startswith(name)) for name in names)
