"""What a run spends its time on: the share of steps in it, and of everything else."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

# In the order of reports. The rest of the time is that of the steps.
STEPS = "steps"
OTHERS = ("waiting", "saving", "evaluating", "compiling", "starting")


class Goodput:
    """The seconds of this process since the run's start, by what they were spent on.

    Time of the steps is all that no `spent` block has taken: the devices work while the host waits
    for them. Blocks must not lie inside each other.
    """

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._seconds = dict.fromkeys(OTHERS, 0.0)

    @contextlib.contextmanager
    def spent(self, kind: str) -> Iterator[None]:
        """Counts the time of a block as one of `OTHERS`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[kind] += time.perf_counter() - began

    def started(self) -> None:
        """Counts the time until now, less that of blocks, as starting."""
        self._seconds["starting"] = self._rest()

    def _rest(self) -> float:
        return max(0.0, time.perf_counter() - self._began - sum(self._seconds.values()))

    def shares(self) -> dict[str, float]:
        """Returns `{"time/steps": share, "time/waiting": ..., ...}`; the shares add up to 1."""
        seconds = {STEPS: self._rest(), **self._seconds}
        total = max(sum(seconds.values()), 1e-9)
        return {f"time/{kind}": value / total for kind, value in seconds.items()}

    def __str__(self) -> str:
        """The shares in words: "93.1 % steps, 1.2 % waiting, ..."."""
        shares = self.shares().items()
        return ", ".join(
            f"{100 * share:.1f} % {kind.removeprefix('time/')}" for kind, share in shares
        )
