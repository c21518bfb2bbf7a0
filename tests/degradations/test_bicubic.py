"""Bicubic resizing and noise: derived numbers, files that MATLAB made, and invariants."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipt_jax.degradations.bicubic import Bicubic
from ipt_jax.degradations.noise import Noise
from ipt_jax.degradations.rain import Rain
from ipt_jax.images.resize import bicubic, bicubic_up
from ipt_jax.metrics import psnr


def benchmark_data() -> Path:
    folder = os.environ.get("IPT_TEST_DATA")
    if not folder:
        pytest.skip(
            "needs the benchmark pictures: set IPT_TEST_DATA to the folder that holds benchmarks/"
        )
    return Path(folder)


def read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert image is not None, path
    return np.ascontiguousarray(image[..., ::-1])


def picture(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# Derived by hand from Keys' formula, a = -1/2: for |x| < 1, (3|x|^3 - 5|x|^2 + 2) / 2; for 1 <
# |x| < 2, (-|x|^3 + 5|x|^2 - 8|x| + 4) / 2. Reducing by s takes x = distance / s and a further 1 /
# s. Scale: (the distance of the first tap from scale * i, weights, their denominator)
REDUCE = {
    2: (-3, [-3, -9, 29, 111, 111, 29, -9, -3], 256),
    3: (-4, [-2, -4, 0, 18, 42, 54, 42, 18, 0, -4, -2], 162),
    4: (-6, [-7, -45, -75, -49, 93, 399, 745, 987, 987, 745, 399, 93, -49, -75, -45, -7], 4096),
}
# Scale: for output scale * i + p, by phase p: (first tap from i, weights); the denominator
ENLARGE = {
    2: ([(-2, [-3, 29, 111, -9]), (-1, [-9, 111, 29, -3])], 128),
    3: ([(-2, [-1, 9, 21, -2]), (0, [27]), (-1, [-2, 21, 9, -1])], 27),
    4: (
        [
            (-2, [-45, 399, 745, -75]),
            (-2, [-7, 93, 987, -49]),
            (-1, [-49, 987, 93, -7]),
            (-1, [-75, 745, 399, -45]),
        ],
        1024,
    ),
}


def by_hand(lines: list[np.ndarray], scale: int, up: bool) -> list[np.ndarray]:
    """Resizes a list of rows in one pass with exact integers."""

    def mirrored(i: int) -> np.ndarray:
        i %= 2 * len(lines)
        return lines[i] if i < len(lines) else lines[2 * len(lines) - 1 - i]

    result = []
    for j in range(len(lines) * scale if up else len(lines) // scale):
        if up:
            phases, denominator = ENLARGE[scale]
            first, weights = phases[j % scale]
            first += j // scale
        else:
            first, weights, denominator = REDUCE[scale]
            first += j * scale
        total = sum(w * mirrored(first + k).astype(np.int64) for k, w in enumerate(weights))
        result.append(
            np.clip((2 * total + denominator) // (2 * denominator), 0, 255).astype(np.uint8)
        )
    return result


def resized_by_hand(image: np.ndarray, scale: int, up: bool) -> np.ndarray:
    tall = np.stack(by_hand(list(image), scale, up))
    return np.stack(by_hand(list(tall.swapaxes(0, 1)), scale, up)).swapaxes(0, 1)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([2, 3, 4]),
    h=st.integers(1, 20),
    w=st.integers(1, 20),
)
def test_bicubic_is_the_hand_derived_filter(seed: int, scale: int, h: int, w: int) -> None:
    image = picture(seed, h * scale, w * scale)
    # Strong edges, so that values are clipped at 0 and at 255.
    image[image > 128] = 255
    small = bicubic(image, scale)
    assert small.dtype == np.uint8
    np.testing.assert_array_equal(small, resized_by_hand(image, scale, up=False))
    np.testing.assert_array_equal(bicubic_up(small, scale), resized_by_hand(small, scale, up=True))


@pytest.mark.parametrize("scale", [2, 3, 4, 5, 8])
def test_constant_and_ramp(scale: int) -> None:
    for value in (0, 1, 127, 255):
        flat = np.full((6 * scale, 7 * scale, 3), value, np.uint8)
        assert (bicubic(flat, scale) == value).all()
        assert (bicubic_up(flat, scale) == value).all()
    # A cubic with a = -1/2 preserves straight lines; centres lie at s i + (s - 1) / 2.
    if scale <= 4:
        ramp = np.tile((2 * np.arange(16 * scale)).astype(np.uint8)[:, None], (1, 4 * scale))
        expected = 2 * scale * np.arange(16) + scale - 1
        assert (bicubic(ramp, scale)[2:-2] == expected[2:-2, None]).all()
        assert (bicubic(np.ascontiguousarray(ramp.T), scale)[:, 2:-2] == expected[2:-2]).all()


def test_halves_are_rounded_up() -> None:
    rows = np.full(12, 1, np.uint8)
    # 1 + 64 x 222 / 256 = 56.5, which rounds to 56 if ties go to even numbers.
    rows[4:6] = 65
    assert bicubic(np.tile(rows[:, None], (1, 8)), 2)[2].tolist() == [57] * 4


def test_other_channel_counts_and_memory_layouts() -> None:
    image = picture(0, 24, 36)
    expected = bicubic(image, 3)
    for c in range(3):
        np.testing.assert_array_equal(bicubic(image[..., c], 3), expected[..., c])
        np.testing.assert_array_equal(bicubic(image[..., c : c + 1], 3), expected[..., c : c + 1])
    six = np.concatenate([image, image[..., ::-1]], axis=2)
    np.testing.assert_array_equal(
        bicubic(six, 3), np.concatenate([expected, expected[..., ::-1]], axis=2)
    )
    np.testing.assert_array_equal(bicubic(np.asfortranarray(image), 3), expected)
    np.testing.assert_array_equal(bicubic(image[::-1, ::-1], 3), expected[::-1, ::-1])
    np.testing.assert_array_equal(bicubic_up(image[..., 1], 2), bicubic_up(image, 2)[..., 1])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), scale=st.sampled_from([2, 3, 4]), seed=st.integers(0, 10**6))
def test_crop_with_margin_is_the_crop_of_the_whole(
    data: st.DataObject, scale: int, seed: int
) -> None:
    """Also at borders and corners, where the image ends before the margin does."""
    height, width = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30))
    degrade = Bicubic(scale)
    hq = picture(seed, height * scale, width * scale)
    whole = degrade(hq)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    m = degrade.margin
    y, x = max(top - m, 0), max(left - m, 0)
    region = hq[
        y * scale : min(bottom + m, height) * scale, x * scale : min(right + m, width) * scale
    ]
    cut = degrade(region)[top - y : bottom - y, left - x : right - x]
    np.testing.assert_array_equal(cut, whole[top:bottom, left:right])


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_smaller_margin_would_not_do(scale: int) -> None:
    hq = picture(1, 20 * scale, 20 * scale)
    m = Bicubic.margin - 1
    region = hq[(5 - m) * scale : (15 + m) * scale, (5 - m) * scale : (15 + m) * scale]
    assert (bicubic(region, scale)[m:-m, m:-m] != bicubic(hq, scale)[5:15, 5:15]).any()


def test_bicubic_errors_say_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"13x16 .* by 4: .* image\[:12, :16\]"):
        bicubic(picture(0, 13, 16), 4)
    with pytest.raises(ValueError, match=r"16x13"):
        Bicubic(3)(picture(0, 16, 13))
    for scale in (1, 0, -2, 2.0, True):
        with pytest.raises(ValueError, match="integer, 2 or more"):
            bicubic(picture(0, 12, 12), scale)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="integer, 2 or more"):
            bicubic_up(picture(0, 12, 12), scale)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="integer, 2 or more"):
            Bicubic(scale)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="uint8 image, not float64"):
        bicubic(np.zeros((12, 12, 3)), 2)
    for shape in ((12,), (1, 12, 12, 3), (0, 12, 3)):
        with pytest.raises(ValueError, match="shape"):
            bicubic_up(np.zeros(shape, np.uint8), 2)


@pytest.mark.parametrize("degrade", [Bicubic(2), Bicubic(4), Noise(30), Noise(0), Rain()])
def test_degradations_are_pure_functions_of_picture_and_generator(
    degrade: Bicubic | Noise | Rain,
) -> None:
    hq = picture(2, 48, 64)
    before = hq.copy()
    first = degrade(hq, np.random.default_rng(7))
    again = pickle.loads(pickle.dumps(degrade))(hq, np.random.default_rng(7))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(hq, before)
    assert not np.shares_memory(first, hq)
    assert first.dtype == (np.uint8 if degrade.rounded else np.float32)
    assert first.shape == (48 // degrade.scale, 64 // degrade.scale, 3)
    assert first.min() >= 0
    assert first.max() <= 255
    assert pickle.loads(pickle.dumps(degrade)) == degrade
    assert hash(pickle.loads(pickle.dumps(degrade))) == hash(degrade)


def test_noise_is_white_gaussian_clipped_and_not_rounded() -> None:
    hq = np.full((400, 400, 3), 128, np.uint8)
    noise = Noise(20)(hq, np.random.default_rng(0)) - 128
    assert noise.mean() == pytest.approx(0, abs=0.15)
    assert noise.std() == pytest.approx(20, rel=0.005)
    assert np.mean(np.abs(noise) < 20) == pytest.approx(0.6827, abs=0.003)
    assert np.abs(np.corrcoef(noise.reshape(-1, 3).T) - np.eye(3)).max() < 0.01
    assert np.abs(np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]) < 0.01
    assert (noise != np.rint(noise)).mean() > 0.99
    edge = Noise(20)(np.zeros((50, 50, 3), np.uint8), np.random.default_rng(0))
    assert np.mean(edge == 0) == pytest.approx(0.5, abs=0.02)
    assert (Noise(20)(hq, np.random.default_rng(1)) != noise + 128).any()


@pytest.mark.parametrize("sigma", [-1, float("nan"), float("inf")])
def test_noise_refuses_impossible_sigmas(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma"):
        Noise(sigma)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_set5_low_resolution_files_to_the_bit(scale: int) -> None:
    folder = benchmark_data() / "benchmarks/Set5"
    files = sorted((folder / f"LR_bicubic/X{scale}").iterdir())
    assert len(files) == 5
    for file in files:
        lr = read(file)
        hr = read(folder / "HR" / file.name.replace(f"x{scale}", ""))
        hr = hr[: hr.shape[0] // scale * scale, : hr.shape[1] // scale * scale]
        np.testing.assert_array_equal(bicubic(hr, scale), lr, err_msg=file.name)


def test_noise_50_on_cbsd68() -> None:
    """Before clipping the noise alone decides: 20 log10(255 / 50) = 14.15 dB."""
    scores = []
    for index, file in enumerate(sorted((benchmark_data() / "benchmarks/CBSD68").glob("*.png"))):
        hq = read(file)
        lq = Noise(50)(hq, np.random.default_rng(index))
        untouched = (lq > 0) & (lq < 255)
        drawn = np.random.default_rng(index).standard_normal(
            hq.shape, dtype=np.float32
        ) * np.float32(50)
        assert np.allclose((lq - hq)[untouched], drawn[untouched], atol=1e-3)
        stored = np.floor(lq + 0.5).astype(np.uint8)
        before = 10 * np.log10(255**2 / np.mean(np.square(drawn, dtype=np.float64)))
        scores.append([before, psnr(stored, hq, "rgb"), psnr(stored, hq, "y")])
    assert len(scores) == 68
    np.testing.assert_allclose(np.mean(scores, axis=0), [14.15, 15.00, 19.65], atol=0.015)
