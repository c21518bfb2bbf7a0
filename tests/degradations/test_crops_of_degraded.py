"""Every degradation: a degraded crop equals the crop of the degraded image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textures import picture

from ipt_jax.data.crops import make_pair, turned
from ipt_jax.degradations.bicubic import Bicubic
from ipt_jax.degradations.blur import (
    GaussianBlur,
    MotionBlur,
)
from ipt_jax.degradations.chain import Chain, OneOf
from ipt_jax.degradations.jpeg import Jpeg
from ipt_jax.tasks import Task


class Places:
    """A generator that first returns the place of a crop, and then real random numbers."""

    def __init__(self, places: tuple[int, ...], seed: int = 0):
        self.places, self.rng = list(places), np.random.default_rng(seed)

    def integers(self, high: int) -> int:
        place = self.places.pop(0) if self.places else int(self.rng.integers(high))
        assert 0 <= place < high
        return place

    def __getattr__(self, name: str):
        return getattr(self.rng, name)


FIXED = {
    "gaussian": GaussianBlur(1.6),
    "motion": MotionBlur(9, 30.0),
    "jpeg": Jpeg(10),
    "blur, down, jpeg": Chain((GaussianBlur(1.0), Bicubic(2), Jpeg(30))),
    "jpeg, down": Chain((Jpeg(20), Bicubic(3))),
    "jpeg, blur, down, jpeg": Chain((Jpeg(20), MotionBlur(5, 70.0), Bicubic(2), Jpeg(40))),
    "one of two, always the second": OneOf((Jpeg(20), GaussianBlur(1.2)), (0, 1)),
    "blur, down, one of two": Chain(
        (GaussianBlur(0.8), Bicubic(2), OneOf((Jpeg(30), MotionBlur(5)), (1, 0)))
    ),
}


@pytest.mark.parametrize("name", FIXED)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99), top=st.integers(0, 60), left=st.integers(0, 70), turn=st.integers(0, 7)
)
def test_a_crop_is_what_a_crop_of_the_whole_degraded_picture_is(name, seed, top, left, turn):
    degrade, tile = FIXED[name], 13
    task = Task("t", degrade.scale, degrade)
    # The image has a remainder, which no crop may reach.
    image = picture(seed, 75 * task.scale + task.scale - 1, 87 * task.scale)
    whole = image[: 75 * task.scale, : 87 * task.scale]
    lq, hq = make_pair(image, task, tile, Places((top, left, turn)), flips=True)
    # JPEG's grid belongs to the stored image, so the crop is turned after the compression.
    if getattr(degrade, "grid", 1) > 1:
        expected = degrade(whole, np.random.default_rng(0))[top : top + tile, left : left + tile]
        expected = turned(expected, turn)
    else:
        # The turned image is degraded, and the crop is where the turn moves it.
        marks = np.zeros((75, 87), np.uint8)
        marks[top, left] = marks[top + tile - 1, left + tile - 1] = 1
        rows, columns = np.nonzero(turned(marks[..., None], turn)[..., 0])
        expected = degrade(np.ascontiguousarray(turned(whole, turn)), np.random.default_rng(0))
        expected = expected[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    np.testing.assert_array_equal(lq, expected)
    s = task.scale
    np.testing.assert_array_equal(
        hq, turned(whole[top * s : (top + tile) * s, left * s : (left + tile) * s], turn)
    )
