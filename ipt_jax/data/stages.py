"""The hook for measuring where the time of a batch goes.

The pipeline runs each piece of its work inside `stage(name)`, a context manager. By default that
is `untimed`, which does nothing. A benchmark passes its own:

    timed = dataclasses.replace(batches, stage=clock.stage)

The pieces do not overlap, so the times of the five stages add up to the time of a batch, except
for the loops between them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

# In the order in which an image passes through them:
#   read     bytes (or an array) from the source
#   decode   bytes to pixels
#   crop     choose, cut and turn a region, after enlarging an image that is too small
#   degrade  the task's degradation of the region
#   batch    allocate the batch's arrays and copy the crops into them
STAGES = ("read", "decode", "crop", "degrade", "batch")

Stage = Callable[[str], contextlib.AbstractContextManager[Any]]

# A null context keeps no state, so all stages can share one.
_NOTHING = contextlib.nullcontext()


def untimed(name: str) -> contextlib.AbstractContextManager[Any]:
    """Returns a context manager that does nothing."""
    return _NOTHING
