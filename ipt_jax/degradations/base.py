"""Parameters of degradations: numbers, ranges from which each crop draws, and shares of crops.

A parameter is either a number or a range `(first, last)`. `range_of` and `share_of` check such a
value when a degradation is made; `drawn` and `happens` draw from it for a crop. Certain values take
nothing from the generator, so that a fixed parameter does not change what is drawn after it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Range = tuple[float, float]


def range_of(value: float | Sequence[float], what: str, low: float, high: float) -> float | Range:
    """Checks a number or a range (first, last) within low..high; a list becomes a tuple.

    Args:
      value: a number, or two of them in ascending order.
      what: names the parameter in the error.
      low, high: limits, both allowed; the value itself must be finite.

    Raises:
      ValueError: the value is neither, or lies outside the limits.
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
    """Returns the number, or one that is drawn uniformly from the range.

    A fixed number takes nothing from the generator.
    """
    return float(rng.uniform(*value)) if isinstance(value, tuple) else value


def highest(value: float | Range) -> float:
    """Returns the largest number that `drawn` can return."""
    return value[1] if isinstance(value, tuple) else value


def share_of(value: float, what: str) -> float:
    """Checks a share of crops, 0 to 1, and returns it as a float; True and False are 1 and 0.

    Raises:
      ValueError: the value is not a share; the message starts with `what`.
    """
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{what} must be a share, 0 to 1, or true or false, not {value!r}.")
    return float(value)


def happens(share: float, rng: np.random.Generator) -> bool:
    """Returns True with probability `share`; 0 and 1 take nothing from the generator."""
    return share == 1 or (share > 0 and float(rng.random()) < share)
