"""A resolved config: what a run is, and how two runs differ."""

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
    """What `sources.open_source` needs: the `data` part, and for pairs the task's scale (0: to be
    found).
    """
    data = dict(config["data"])
    return (
        {**data, "scale": make_tasks(config["tasks"])[0].scale}
        if data["source"] == "pairs"
        else data
    )


def resolve(config: ConfigDict, schedule_steps: int = 0) -> dict[str, Any]:
    """A plain dict of the config with the schedule's length settled: its own key, else the run's,
    else `steps`.
    """
    plain = config.to_dict()
    plain["tasks"] = [task if isinstance(task, str) else dict(task) for task in plain["tasks"]]
    plain["optim"]["schedule_steps"] = config.optim.schedule_steps or schedule_steps or config.steps
    return plain


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], may_change: Sequence[str] = MAY_CHANGE
) -> list[str]:
    """Lines 'key: old -> new' for what a resumed run may not change; a key that a run is too old to
    have has its default.
    """
    known, a, b = (
        flatten(json.loads(json.dumps(tree))) for tree in (default().to_dict(), old, new)
    )
    a = {**known, **a}
    keys = [
        k
        for k in sorted({*a, *b})
        if not any(k == m or (m.endswith(".") and k.startswith(m)) for m in may_change)
    ]
    missing = "(none)"
    return [
        f"{k}: {a.get(k, missing)!r} -> {b.get(k, missing)!r}"
        for k in keys
        if a.get(k, missing) != b.get(k, missing)
    ]


def fingerprint(plain: Mapping[str, Any]) -> str:
    """A hex digest of all that makes it this run and not another."""
    fixed = {
        k: v
        for k, v in flatten(plain).items()
        if not any(k == m or (m.endswith(".") and k.startswith(m)) for m in MAY_CHANGE)
    }
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]
