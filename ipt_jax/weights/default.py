"""Where weights are found when none are named."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from ipt_jax.errors import WeightsError

VARIABLE = "IPT_WEIGHTS"
# What a release brings: weights folders
SHIPPED = Path(str(resources.files("ipt_jax"))) / "weights_data"


def cache() -> Path:
    """The folder for weights that were fetched or put there: `$XDG_CACHE_HOME/ipt_jax/weights`,
    else under ~/.cache.
    """
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "ipt_jax" / "weights"


def default_weights(tasks: Sequence[str]) -> str:
    """The first weights for all these tasks: `$IPT_WEIGHTS` (taken as it is), then folders in the
    cache, then the package's.

    Raises:
      WeightsError: there are none; says how to get some.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return named
    others: list[str] = []
    for place in (cache(), SHIPPED):
        for file in sorted(place.glob("**/model.json")):
            there = _tasks(file)
            if set(tasks) <= set(there):
                return str(file.parent)
            others += there
    had = f" (those found are for {', '.join(dict.fromkeys(others))})" if others else ""
    raise WeightsError(
        f"no weights named, and none found for {', '.join(tasks)}{had}. Name some with --weights: "
        "a run's folder (make some, "
        "in minutes: ipt pretrain --config=configs/demo.py --workdir=runs/demo), or a file of the "
        "authors' (IPT_sr2.pt). "
        f"To need no --weights: set {VARIABLE}, or put a weights folder (ipt export --format "
        f"folder) into {cache()}"
    )


def _tasks(file: Path) -> list[str]:
    import json

    try:
        return [entry["name"] for entry in json.loads(file.read_text())["tasks"]]
    except (ValueError, KeyError, TypeError, OSError):
        return []
