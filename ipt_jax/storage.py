"""Local and bucket paths."""

from __future__ import annotations

import os
from typing import Any

from ipt_jax.errors import DataError
from ipt_jax.messages import first_line


def reachable(path: Any, what: str) -> None:
    """Raises DataError if a gs:// path (etils') cannot be opened because what opens such paths is
    not installed.
    """
    try:
        path.exists()
    except ImportError as error:
        raise DataError(
            f"{what}={os.fspath(path)}: {first_line(error)}: pip install gcsfs"
        ) from error
