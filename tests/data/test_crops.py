"""Random crops: equal to crops of the degraded image, at every border and turned in every way."""

from __future__ import annotations

import numpy as np
import pytest
from data_sets import Noisy
from hypothesis import given, settings
from hypothesis import strategies as st

from ipt_jax.data.crops import make_pair
from ipt_jax.images.resize import bicubic
from ipt_jax.tasks import TASKS, make_tasks


def turned(picture: np.ndarray, turn: int) -> np.ndarray:
    picture = picture[::-1] if turn & 1 else picture
    picture = picture[:, ::-1] if turn & 2 else picture
    return picture.transpose(1, 0, 2) if turn & 4 else picture


class Forced:
    """A generator that returns given numbers: the place of a crop, and how it is turned."""

    def __init__(self, *values: int):
        self.values = list(values)

    def integers(self, stop: int) -> int:
        value = self.values.pop(0)
        assert 0 <= value < stop
        return value


@settings(deadline=None, max_examples=150)
@given(st.data(), st.sampled_from([2, 3, 4]), st.integers(0, 7))
def test_an_sr_pair_is_the_crop_of_the_whole_degraded_picture(data, scale, turn):
    tile = 8
    height, width = (data.draw(st.integers(tile * scale, tile * scale * 3)) for _ in range(2))
    picture = np.random.default_rng(height * 1000 + width).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )
    spot = [data.draw(st.sampled_from([0, 1, 2, 3, 99, 98, 97])) * 1.0 for _ in range(2)]
    most = [size // scale - tile for size in (height, width)]
    # Places at or near the borders.
    y, x = (int(min(s, m) if s < 50 else max(0, m - (99 - s))) for s, m in zip(spot, most))
    lq, hq = make_pair(picture, TASKS[f"sr{scale}"], tile, Forced(y, x, turn), flips=True)
    whole_hq = picture[: height // scale * scale, : width // scale * scale]
    places = np.zeros(whole_hq.shape, np.uint8)
    places[y * scale : (y + tile) * scale, x * scale : (x + tile) * scale] = 1
    rows, columns = (np.flatnonzero(turned(places, turn).any((axis, 2))) for axis in (1, 0))
    whole_hq = turned(whole_hq, turn)
    whole_lq = bicubic(np.ascontiguousarray(whole_hq), scale)
    top, left = rows[0] // scale, columns[0] // scale
    np.testing.assert_array_equal(
        hq, whole_hq[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    )
    np.testing.assert_array_equal(lq, whole_lq[top : top + tile, left : left + tile])


def test_flips_take_all_eight_ways():
    corner = np.zeros((12, 12, 3), np.uint8)
    corner[0, 1] = 1
    rng = np.random.default_rng(0)
    ways = {
        make_pair(
            corner,
            make_tasks([{"name": "n", "degradation": "noise", "sigma": 0}])[0],
            12,
            rng,
            True,
        )[1].tobytes()
        for _ in range(200)
    }
    assert len(ways) == 8
    assert ways == {turned(corner, turn).tobytes() for turn in range(8)}


def test_noise_and_rain_belong_to_the_crop():
    picture = Noisy(1, 40, 50)[0]
    for name in ("denoise30", "derain"):
        lq, hq = make_pair(picture, TASKS[name], 12, np.random.default_rng(0))
        difference = lq - hq
        assert lq.shape == hq.shape == (12, 12, 3) and (difference != 0).any()
        windows = np.lib.stride_tricks.sliding_window_view(picture, (12, 12), (0, 1))
        assert (windows == hq.transpose(2, 0, 1)).all((-3, -2, -1)).any()


@pytest.mark.parametrize("size", [(1, 1), (5, 90), (47, 30), (12, 200)])
def test_small_pictures_are_enlarged(size):
    for task in TASKS.values():
        lq, hq = make_pair(Noisy(1, *size)[0], task, 12, np.random.default_rng(0))
        assert lq.shape == (12, 12, 3) and hq.shape == (12 * task.scale, 12 * task.scale, 3)
