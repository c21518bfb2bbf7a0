"""Sequences of degradations and random choices between them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from textures import picture

from ipt_jax.degradations.bicubic import Bicubic
from ipt_jax.degradations.blur import (
    GaussianBlur,
)
from ipt_jax.degradations.chain import Chain, OneOf
from ipt_jax.degradations.jpeg import Jpeg
from ipt_jax.degradations.noise import Noise
from ipt_jax.tasks import entry_of, make_task


def test_one_of_several_degradations():
    image = picture(2, 32, 32)
    either = OneOf((GaussianBlur(2.0), Jpeg(10)), (0.25, 0.75))
    blurred = GaussianBlur(2.0)(image, np.random.default_rng(0))
    results = [either(image, np.random.default_rng(seed)) for seed in range(400)]
    assert abs(sum(np.array_equal(one, blurred) for one in results) - 100) < 35
    assert (either.rounded, either.grid, either.margin, either.scale) == (True, 16, 6, 1)
    mixed = OneOf((Noise(10), Jpeg(10)))
    assert not mixed.rounded
    assert {mixed(image, np.random.default_rng(seed)).dtype for seed in range(8)} == {
        np.dtype(np.float32)
    }
    task = make_task({"name": "any", **entry_of(either)})
    assert task.degrade == either


REAL = {
    "name": "real",
    "degradation": "chain",
    "steps": [
        {"degradation": "gaussian_blur", "sigma": [0.2, 2]},
        {"degradation": "bicubic", "scale": 2},
        {"degradation": "noise", "sigma": [0, 20]},
        {"degradation": "jpeg", "quality": [30, 95]},
    ],
}


def test_a_chain_composes_and_goes_through_a_config_and_back():
    task = make_task(REAL)
    assert (task.scale, task.border, task.degrade.rounded, task.degrade.grid) == (2, 2, True, 16)
    # JPEG with its grid, noise, bicubic, and a blur of 6 hq pixels.
    assert task.degrade.margin == (2 + 15) + 0 + 2 + 3
    assert make_task({"name": "real", **entry_of(task.degrade)}) == task
    assert pickle.loads(pickle.dumps(task)) == task
    image = picture(2, 96, 96)
    lq = task.degrade(image, np.random.default_rng(4))
    np.testing.assert_array_equal(lq, task.degrade(image, np.random.default_rng(4)))
    assert lq.shape == (48, 48, 3) and lq.dtype == np.uint8
    by_hand, rng = image, np.random.default_rng(4)
    by_hand = GaussianBlur((0.2, 2))(by_hand, rng)
    by_hand = np.floor(Noise((0, 20))(Bicubic(2)(by_hand), rng) + 0.5).clip(0, 255).astype(np.uint8)
    np.testing.assert_array_equal(lq, Jpeg((30, 95))(by_hand, rng))
    assert make_task({**REAL, "steps": REAL["steps"][:3]}).degrade.rounded is False
    assert Chain((Jpeg(20), Bicubic(2))).grid == 8 and Chain((Jpeg(20), Bicubic(3))).grid == 16


def test_without_shares_all_choices_are_equally_likely():
    image = picture(6, 8, 8)
    choices = (Noise(0), Noise(0, clean=1), Bicubic(2))
    with pytest.raises(ValueError, match="one scale, not x1, x2"):
        OneOf(choices)
    kinds = OneOf((GaussianBlur(1.0), GaussianBlur(2.0), GaussianBlur(3.0)))
    results = [kinds(image, np.random.default_rng(seed)).tobytes() for seed in range(600)]
    counts = sorted(results.count(one) for one in set(results))
    # Four standard deviations of a binomial distribution.
    assert len(counts) == 3 and abs(counts[0] - 200) < 47 and abs(counts[2] - 200) < 47


def test_a_choice_has_the_largest_margin_and_the_common_grid_of_all():
    half = Chain((Jpeg(20), Bicubic(2)))
    third = OneOf((half, Bicubic(2)), (0.5, 0.5))
    assert (half.grid, third.grid, third.scale) == (8, 8, 2)
    assert third.margin == max(half.margin, Bicubic(2).margin)
    assert OneOf((Jpeg(10), GaussianBlur(3.0))).margin == 9
    assert OneOf([Noise(1), Noise(2)], [0.5, 0.5]) == OneOf((Noise(1), Noise(2)), (0.5, 0.5))


def test_a_choice_of_share_zero_is_never_drawn():
    image = picture(7, 8, 8)
    always = OneOf((Noise(50), Noise(0)), (0, 1))
    for seed in range(20):
        np.testing.assert_array_equal(always(image, np.random.default_rng(seed)), image)


@pytest.mark.parametrize("share", [(1,), (0.5, 0.4), (1.5, -0.5), (0.5, 0.5, 0.0)])
def test_shares_must_fit_the_choices(share):
    with pytest.raises(ValueError, match="one share for each choice, with a sum of 1"):
        OneOf((Noise(1), Noise(2)), share)
