"""Agreement of processes that read one folder of checkpoints."""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def from_first_process(value: Any) -> Any:
    """Returns process 0's value (JSON).

    Processes need it because other hosts may see an older state of a shared folder.
    """
    if jax.process_count() == 1:
        return value
    text = json.dumps(value).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    data = np.frombuffer(text[:size].ljust(size), np.uint8)
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(data))))


def all_processes(good: bool) -> bool:
    """Returns whether `good` holds on every process."""
    if jax.process_count() == 1:
        return good
    return bool(multihost_utils.process_allgather(np.array(good)).all())
