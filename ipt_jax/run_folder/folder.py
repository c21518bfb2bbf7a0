"""The names of all files in the folder of a run."""

from __future__ import annotations

import json

from etils import epath

BEST = "best.json"


def best_step(folder: epath.Path) -> int | None:
    """The best step of a run's folder, or None where it keeps none."""
    try:
        return int(json.loads((folder / BEST).read_text())["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
