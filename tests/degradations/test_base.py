"""Parameters of degradations: numbers, ranges and shares."""

from __future__ import annotations

import numpy as np
import pytest

from ipt_jax.degradations.base import drawn, happens, highest, range_of, share_of


def test_numbers_and_ranges_are_kept_and_lists_become_tuples():
    assert range_of(3, "x", 0, 5) == 3
    assert range_of([1, 2.5], "x", 0, 5) == (1, 2.5)
    assert range_of((5, 5), "x", 0, 5) == (5, 5)
    assert highest(3) == 3 and highest((1, 2)) == 2


@pytest.mark.parametrize("value", [-1, 6, (2, 1), (0, 6), (1,), (), "3", None, True, (0, False)])
def test_other_values_are_refused_by_name(value):
    with pytest.raises(
        ValueError, match=r"^x must be a number or a range \[first, last\] in 0 to 5"
    ):
        range_of(value, "x", 0, 5)


def test_without_an_upper_limit_values_are_still_finite():
    assert range_of(1e9, "x", 0, float("inf")) == 1e9
    for value in (float("inf"), (0, float("inf")), float("nan")):
        with pytest.raises(ValueError, match=r"^x must be"):
            range_of(value, "x", 0, float("inf"))


def test_a_fixed_number_and_a_certain_share_draw_nothing():
    rng = np.random.default_rng(0)
    assert drawn(4.5, rng) == 4.5 and happens(1, rng) and not happens(0, rng)
    assert rng.random() == np.random.default_rng(0).random()


def test_draws_are_uniform_and_shares_are_met():
    rng = np.random.default_rng(0)
    values = np.array([drawn((2, 6), rng) for _ in range(2000)])
    assert values.min() >= 2 and values.max() <= 6 and abs(values.mean() - 4) < 0.11
    assert abs(sum(happens(0.3, rng) for _ in range(2000)) - 600) < 82


def test_shares_are_floats_in_0_to_1():
    assert (share_of(True, "x"), share_of(0, "x"), share_of(0.5, "x")) == (1.0, 0.0, 0.5)
    for value in (-0.1, 1.1, "1", None, float("nan")):
        with pytest.raises(ValueError, match=r"^x must be a share, 0 to 1"):
            share_of(value, "x")
