"""What degradations share: numbers or ranges, drawn for each crop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Range = tuple[float, float]


def range_of(value: float | Sequence[float], what: str, low: float, high: float) -> float | Range:
    """A number, or a range (first, last), in low..high; a list becomes a tuple.

    Raises:
      ValueError: anything else; `what` names it.
    """
    span = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
    numbers = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in span)
    if (
        len(span) != 2
        or not numbers
        or not low <= span[0] <= span[1] <= high
        or span[1] == float("inf")
    ):
        raise ValueError(
            f"{what} must be a number or a range [first, last] in {low:g} to {high:g}, not "
            f"{value!r}."
        )
    return value if isinstance(value, (int, float)) else (span[0], span[1])


def drawn(value: float | Range, rng: np.random.Generator) -> float:
    """The number, or one drawn uniformly from the range; a fixed number takes nothing from the
    generator.
    """
    return float(rng.uniform(*value)) if isinstance(value, tuple) else value


def highest(value: float | Range) -> float:
    """The largest number that `drawn` gives."""
    return value[1] if isinstance(value, tuple) else value


def share_of(value: float, what: str) -> float:
    """A share, 0 to 1, as a float; True and False are 1 and 0.

    Raises:
      ValueError: anything else; `what` names it.
    """
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{what} must be a share, 0 to 1, or true or false, not {value!r}.")
    return float(value)


def happens(share: float, rng: np.random.Generator) -> bool:
    """True in that share of all cases; the certain cases, 0 and 1, take nothing from the
    generator.
    """
    return share == 1 or (share > 0 and float(rng.random()) < share)
