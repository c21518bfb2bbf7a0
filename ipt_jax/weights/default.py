"""The weights that are used when the user names none, and weights with names."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from ipt_jax.errors import WeightsError
from ipt_jax.tasks import TASKS, in_words, similar_task

VARIABLE = "IPT_WEIGHTS"
# The name of the weights that are preferred where several have the tasks.
DEFAULT = "ipt_small"
# The weights folders that the package contains.
SHIPPED = Path(str(resources.files("ipt_jax"))) / "weights_data"


def cache() -> Path:
    """Returns the user's folder for weights.

    This is `$XDG_CACHE_HOME/ipt_jax/weights`, or `~/.cache/ipt_jax/weights`.
    """
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "ipt_jax" / "weights"


def shipped() -> dict[str, Path]:
    """Returns the weights folders of the cache and of the package by their names.

    Folders of the cache have precedence. The default weights come first.
    """
    found: dict[str, Path] = {}
    for place in (cache(), SHIPPED):
        for file in sorted(place.glob("*/model.json")):
            found.setdefault(file.parent.name, file.parent)
    return dict(sorted(found.items(), key=lambda entry: entry[0] != DEFAULT))


def named_weights(name: str) -> Path | None:
    """Returns the weights folder of this name in the cache or in the package, or None."""
    return shipped().get(name) if re.fullmatch(r"[\w][\w.-]*", name) else None


def default_weights(tasks: Sequence[str] = ()) -> str:
    """Returns the path of the default weights.

    This is `$IPT_WEIGHTS`, which is not checked, else the first weights folder in the cache and
    then in the package that has all the tasks.

    Args:
      tasks: names of the tasks that the weights must have.

    Raises:
      WeightsError: there are no such weights; the message explains how to get some.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return named
    others: list[str] = []
    for place in (cache(), SHIPPED):
        files = sorted(place.glob("**/model.json"), key=lambda file: file.parent.name != DEFAULT)
        for file in files:
            there = tasks_of(file)
            if set(tasks) <= set(there):
                return str(file.parent)
            others += there
    unknown = [task for task in tasks if task not in TASKS and task not in others]
    if unknown:
        known = list(dict.fromkeys(others)) or list(TASKS)
        raise WeightsError(
            f"unknown task {unknown[0]!r}{similar_task(unknown[0], known)}; these are possible:\n"
            f"{in_words(known)}"
        )
    found = f" (those found are for {', '.join(dict.fromkeys(others))})" if others else ""
    raise WeightsError(
        f"--weights is not given, and no weights were found for {', '.join(tasks)}{found}. Give "
        "--weights a run's folder (this makes one in minutes: ipt pretrain "
        "--config=configs/demo.py --workdir=runs/demo) or a file of the authors' weights "
        f"(IPT_sr2.pt). To omit --weights, set {VARIABLE}, or put a weights folder (ipt export "
        f"--format folder) into {cache()}"
    )


def tasks_of(file: Path) -> list[str]:
    """Returns the tasks of a `model.json`; none if it is not valid."""
    try:
        return [entry["name"] for entry in json.loads(file.read_text())["tasks"]]
    except (ValueError, KeyError, TypeError, OSError):
        return []
