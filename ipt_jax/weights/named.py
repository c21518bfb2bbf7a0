"""What readers of weights share: the task that a name stands for, and checksums of files."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from ipt_jax.degradations.bicubic import Bicubic
from ipt_jax.degradations.noise import Noise
from ipt_jax.degradations.paired import Paired
from ipt_jax.errors import WeightsError
from ipt_jax.tasks import TASKS, Task


def sha256(file: Path) -> str:
    """Hex digest of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def named_task(name: str, scale: int) -> Task:
    """The table's task of that name; noise for `denoise<sigma>`, bicubic for `sr<scale>`; else one
    that needs pairs.

    Raises:
      WeightsError: the table has the name for another scale.
    """
    if name in TASKS:
        if TASKS[name].scale != scale:
            raise WeightsError(
                f"task {name!r} is for x{TASKS[name].scale}; the tail in the file is for x{scale}"
            )
        return TASKS[name]
    sigma = re.fullmatch(r"denoise(\d+)", name)
    if sigma and scale == 1:
        return Task(name, scale, Noise(float(sigma[1])))
    return Task(
        name, scale, Bicubic(scale) if scale > 1 and name == f"sr{scale}" else Paired(scale)
    )
