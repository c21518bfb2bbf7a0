"""Noise: its distribution, and the shares of clipped and of clean crops."""

from __future__ import annotations

import numpy as np
import pytest
from textures import picture

from ipt_jax.degradations.jpeg import Jpeg
from ipt_jax.degradations.noise import Noise


def test_blind_noise_has_its_distribution():
    grey = np.full((64, 64, 3), 128, np.uint8)
    noise = Noise((10, 50))
    sigmas = np.array(
        [(noise(grey, np.random.default_rng(seed)) - 128.0).std() for seed in range(400)]
    )
    # Sigma is uniform in 10..50. A standard deviation of 12,288 samples has an error of 0.64 %, and
    # clipping reduces it by 2 % at sigma 50.
    assert 9.7 < sigmas.min() < 11 and 47.5 < sigmas.max() < 50.5
    grid = np.linspace(0, 1, 21)
    # Twice the limit of a Kolmogorov-Smirnov test at 5 %: 1.36 * 40 / sqrt(400) = 2.7.
    assert np.abs(np.quantile(sigmas, grid) - (10 + 40 * grid)).max() < 4.5
    a, b = (noise(grey, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert np.std(Noise((25, 25))(grey, np.random.default_rng(0)) - 128.0) == pytest.approx(
        25, rel=0.02
    )


def test_a_fixed_sigma_draws_as_before():
    rng = np.random.default_rng(7)
    expected = np.clip(
        rng.standard_normal((8, 8, 3), dtype=np.float32) * np.float32(30) + 100, 0, 255
    )
    np.testing.assert_array_equal(
        Noise(30.0)(np.full((8, 8, 3), 100, np.uint8), np.random.default_rng(7)), expected
    )


def test_noise_that_is_not_clipped_is_the_same_noise():
    image = picture(3, 40, 40)
    image[:20] = 0
    clipped, free = (Noise(40, clipped=share)(image, np.random.default_rng(1)) for share in (1, 0))
    assert free.min() < -20 and free.max() > 260
    np.testing.assert_array_equal(np.clip(free, 0, 255), clipped)


def test_shares_of_clipped_and_of_clean_crops():
    black = np.zeros((16, 16, 3), np.uint8)
    rng = np.random.default_rng(0)
    noise = Noise((20, 50), clipped=0.5, clean=0.2)
    crops = [noise(black, rng) for _ in range(1000)]
    clean = sum(not crop.any() for crop in crops)
    free = sum(crop.min() < 0 for crop in crops)
    # Four standard deviations of a binomial distribution.
    assert abs(clean - 200) < 51 and abs(free - 400) < 62
    assert all(crop.dtype == np.float32 for crop in crops)
    textured = picture(1, 16, 16)
    same = sum(np.array_equal(Jpeg(20, clean=0.3)(textured, rng), textured) for _ in range(1000))
    assert abs(same - 300) < 58


def test_clean_crops_are_the_image_itself():
    image = picture(4, 12, 12)
    for clean in (1, 1.0, True):
        lq = Noise((5, 9), clean=clean)(image, np.random.default_rng(0))
        assert lq.dtype == np.float32
        np.testing.assert_array_equal(lq, image)
    assert not np.array_equal(Noise(5, clean=False)(image, np.random.default_rng(0)), image)


def test_certain_shares_draw_nothing():
    """So a task without random shares keeps its batches."""
    image = picture(5, 8, 8)
    for share in (0.0, 1.0):
        ours, plain = np.random.default_rng(3), np.random.default_rng(3)
        Noise(30, clipped=share)(image, ours)
        plain.standard_normal(image.shape, dtype=np.float32)
        assert ours.random() == plain.random()
    ours = np.random.default_rng(3)
    Noise(30, clean=1)(image, ours)
    assert ours.random() == np.random.default_rng(3).random()


def test_the_share_of_clipped_crops_does_not_change_the_noise():
    """The decision is drawn before the noise, so both outcomes of one seed show the same noise."""
    black = np.zeros((6, 6, 3), np.uint8)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        clipped = rng.random() < 0.5
        expected = rng.standard_normal(black.shape, dtype=np.float32) * np.float32(40)
        lq = Noise(40, clipped=0.5)(black, np.random.default_rng(seed))
        np.testing.assert_array_equal(lq, np.clip(expected, 0, 255) if clipped else expected)


@pytest.mark.parametrize("sigma", [-1, (5, 2), (1, 2, 3), float("inf"), float("nan"), "30", True])
def test_a_sigma_that_is_no_number_or_range_is_refused(sigma):
    with pytest.raises(ValueError, match="Noise: sigma, in grey levels"):
        Noise(sigma)


@pytest.mark.parametrize("field", ["clipped", "clean"])
@pytest.mark.parametrize("share", [-0.1, 1.1, "half", None, float("nan")])
def test_what_is_no_share_is_refused(field, share):
    with pytest.raises(ValueError, match=f"Noise: {field} must be a share, 0 to 1"):
        Noise(10, **{field: share})
