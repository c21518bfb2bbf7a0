"""PSNR, SSIM and luma against their definitions and against published scores."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from ipt_jax.images.resize import bicubic, bicubic_up
from ipt_jax.metrics import psnr, rgb_to_y, ssim


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


def noisy_pair(seed: int, height: int = 40, width: int = 50) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a = cv2.GaussianBlur(rng.integers(0, 256, (height, width, 3)).astype(np.uint8), (0, 0), 1.5)
    b = np.clip(a + rng.normal(0, 12, a.shape), 0, 255).astype(np.uint8)
    return a, b


@pytest.mark.parametrize(
    ("rgb", "y"),
    [
        ((0, 0, 0), 16.0),
        ((255, 255, 255), 16 + 255 * (65.738 + 129.057 + 25.064) / 256),
        ((255, 0, 0), 16 + 255 * 65.738 / 256),
        ((0, 255, 0), 16 + 255 * 129.057 / 256),
        ((0, 0, 255), 16 + 255 * 25.064 / 256),
    ],
)
def test_luma_is_bt601_and_not_rounded(rgb: tuple[int, int, int], y: float) -> None:
    for dtype in (np.uint8, np.float32):
        luma = rgb_to_y(np.array(rgb, dtype).reshape(1, 1, 3))
        assert luma.dtype == np.float64
        assert luma.shape == (1, 1)
        assert luma[0, 0] == pytest.approx(y, abs=1e-9)


def test_luma_wants_three_channels() -> None:
    with pytest.raises(ValueError, match="R, G, B"):
        rgb_to_y(np.zeros((4, 4)))


def test_psnr_of_a_known_difference() -> None:
    a = np.full((20, 30, 3), 100, np.uint8)
    b = a.copy()
    # Only green differs.
    b[..., 1] += 10
    assert psnr(a, b, "rgb") == pytest.approx(10 * np.log10(255**2 / (100 / 3)), abs=1e-9)
    assert psnr(a, b, "y") == pytest.approx(20 * np.log10(255 / (10 * 129.057 / 256)), abs=1e-9)
    assert psnr(a, b) == psnr(a, b, channel="y")


def test_border_is_left_out() -> None:
    a, b = noisy_pair(0)
    c = b.copy()
    c[:4], c[-4:], c[:, :4], c[:, -4:] = 255, 0, 255, 0
    for measure in (psnr, ssim):
        for channel in ("y", "rgb"):
            assert measure(a, c, channel, border=4) == measure(
                a[4:-4, 4:-4], b[4:-4, 4:-4], channel
            )
            assert measure(a, c, channel) < measure(a, c, channel, border=4)
            assert measure(a, c, channel, border=3) < measure(a, c, channel, border=4)


@pytest.mark.parametrize("channel", ["y", "rgb"])
def test_equal_pictures(channel: str) -> None:
    a, _ = noisy_pair(1)
    assert psnr(a, a.copy(), channel) == float("inf")
    assert ssim(a, a.copy(), channel) == pytest.approx(1.0, abs=1e-12)


def test_ssim_is_the_definition() -> None:
    """Window by window, in the paper's formula."""
    a, b = (image[:14, :13] for image in noisy_pair(2))
    x, y = rgb_to_y(a), rgb_to_y(b)
    t = np.arange(11) - 5.0
    window = np.exp(-(t[:, None] ** 2 + t**2) / (2 * 1.5**2))
    window /= window.sum()
    scores = []
    for i in range(4):
        for j in range(3):
            p, q = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            covariance = (window * (p - mp) * (q - mq)).sum()
            top = (2 * mp * mq + 2.55**2) * (2 * covariance + 7.65**2)
            scores.append(top / ((mp**2 + mq**2 + 2.55**2) * (vp + vq + 7.65**2)))
    assert ssim(a, b) == pytest.approx(np.mean(scores), abs=1e-10)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), height=st.integers(11, 40), width=st.integers(11, 40))
def test_ssim_agrees_with_scikit_image(seed: int, height: int, width: int) -> None:
    a, b = noisy_pair(seed, height, width)
    options = {
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
        "data_range": 255,
    }
    full = structural_similarity(a, b, channel_axis=2, full=True, **options)[1]
    assert ssim(a, b, "rgb") == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-9)
    full = structural_similarity(rgb_to_y(a), rgb_to_y(b), full=True, **options)[1]
    assert ssim(a, b) == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), channel=st.sampled_from(["y", "rgb"]), border=st.integers(0, 5))
def test_properties(seed: int, channel: str, border: int) -> None:
    a, b = noisy_pair(seed)
    worse = np.clip(a.astype(int) + 2 * (b.astype(int) - a), 0, 255).astype(np.uint8)
    for measure in (psnr, ssim):
        score = measure(a, b, channel, border)
        assert isinstance(score, float)
        assert score == pytest.approx(measure(b, a, channel, border), rel=1e-12)
        assert score == pytest.approx(
            measure(a[::-1, ::-1], b[::-1, ::-1], channel, border), rel=1e-9
        )
        assert measure(a, worse, channel, border) < score
    assert -1 <= ssim(a, b, channel, border) < 1


def test_grey_is_the_same_as_three_equal_channels() -> None:
    a, b = (image[..., 0] for image in noisy_pair(3))
    for measure in (psnr, ssim):
        for channel in ("y", "rgb"):
            colour = measure(np.dstack([a] * 3), np.dstack([b] * 3), channel, 2)
            assert measure(a, b, channel, 2) == pytest.approx(colour, rel=1e-12)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_errors_say_what_is_wrong(measure: Callable[..., float]) -> None:
    a, b = noisy_pair(4)
    for bad in (a.astype(np.float32), a.astype(np.float32) / 255, a.astype(np.int64)):
        with pytest.raises(ValueError, match=r"uint8.*Round first"):
            measure(bad, b)
        with pytest.raises(ValueError, match=r"uint8.*Round first"):
            measure(b, bad)
    with pytest.raises(ValueError, match=r"differ in shape: \(40, 50, 3\) and \(39, 50, 3\)"):
        measure(a, b[1:])
    with pytest.raises(ValueError, match="differ in shape"):
        measure(a, b[..., 0])
    with pytest.raises(ValueError, match="border of 20 leaves nothing"):
        measure(a, b, border=20)
    for border in (-1, 1.5):
        with pytest.raises(ValueError, match="border is a number of pixels"):
            measure(a, b, border=border)
    with pytest.raises(ValueError, match=r'"y" or "rgb", not \'luma\''):
        measure(a, b, "luma")
    with pytest.raises(ValueError, match=r"\[H, W, 3\] or \[H, W\]"):
        measure(np.dstack([a, a]), np.dstack([b, b]))


def test_ssim_refuses_less_than_its_window() -> None:
    a, b = noisy_pair(5, 14, 30)
    assert ssim(a, b, border=1) < 1
    with pytest.raises(ValueError, match=r"11x11 .* border of 2 .* 10x26"):
        ssim(a, b, border=2)
    assert psnr(a, b, border=2) > 0


SET5 = ("baby", "bird", "butterfly", "head", "woman")


@pytest.mark.parametrize(
    ("scale", "up_psnr", "rcan_psnr", "rcan_ssim"),
    [(2, 33.673, 38.274, 0.96144), (3, 30.403, 34.742, 0.92989), (4, 28.429, 32.634, 0.90024)],
)
def test_set5_scores(scale: int, up_psnr: float, rcan_psnr: float, rcan_ssim: float) -> None:
    """Scores of bicubic enlargement and of RCAN's published output files.

    RCAN's published scores are 38.27/.9614, 34.74/.9299 and 32.63/.9002.
    """
    data = benchmark_data()
    scores = []
    for name in SET5:
        (hr_file,) = (data / "benchmarks/Set5/HR").glob(f"{name}*")
        (lr_file,) = (data / f"benchmarks/Set5/LR_bicubic/X{scale}").glob(f"{name}*")
        (rcan_file,) = (data / f"oracle/rcan_set5/x{scale}").glob(f"{name}*")
        lr, rcan = read(lr_file), read(rcan_file)
        hr = read(hr_file)[: lr.shape[0] * scale, : lr.shape[1] * scale]
        up = bicubic_up(lr, scale)
        scores.append(
            [psnr(up, hr, border=scale), psnr(rcan, hr, border=scale), ssim(rcan, hr, border=scale)]
        )
    mean = np.mean(scores, axis=0)
    assert mean[0] == pytest.approx(up_psnr, abs=0.005)
    assert mean[1] == pytest.approx(rcan_psnr, abs=0.005)
    assert mean[2] == pytest.approx(rcan_ssim, abs=0.0005)


def enlargement(size: int, scale: int) -> np.ndarray:
    """Keys' cubic (a = -1/2) as a matrix [size * scale, size], mirrored at the borders."""
    places = (np.arange(size * scale) + 0.5) / scale - 0.5
    first = np.floor(places).astype(int) - 1
    matrix = np.zeros((size * scale, size))
    for tap in range(4):
        x = np.abs(places - (first + tap))
        weight = np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2)
        index = np.mod(first + tap, 2 * size)
        np.add.at(
            matrix, (np.arange(len(x)), np.where(index < size, index, 2 * size - 1 - index)), weight
        )
    return matrix


@pytest.mark.parametrize(
    ("scale", "published_psnr", "published_ssim"),
    [(2, 33.66, 0.9299), (3, 30.39, 0.8682), (4, 28.42, 0.8104)],
)
def test_published_bicubic_rows_come_from_the_luma_protocol(
    scale: int, published_psnr: float, published_ssim: float
) -> None:
    """The rounded Y of HR is reduced to uint8 and enlarged in floating point.

    Enlarging the RGB files gives scores that are 0.01 dB higher.
    """
    scores = []
    for file in sorted((benchmark_data() / "benchmarks/Set5/HR").iterdir()):
        hr = read(file)
        height, width = (size // scale * scale for size in hr.shape[:2])
        y = np.floor(rgb_to_y(hr[:height, :width]) + 0.5).astype(np.uint8)
        small = bicubic(y, scale).astype(np.float64)
        up = enlargement(height // scale, scale) @ small @ enlargement(width // scale, scale).T
        a, b = (x.astype(np.float64)[scale:-scale, scale:-scale] for x in (up, y))
        similarity = structural_similarity(
            a, b, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        scores.append([10 * np.log10(255**2 / np.mean(np.square(a - b))), similarity])
    mean = np.mean(scores, axis=0)
    assert mean[0] == pytest.approx(published_psnr, abs=0.006)
    assert mean[1] == pytest.approx(published_ssim, abs=0.0004)


def test_rain100l_input_scores() -> None:
    folder = benchmark_data() / "benchmarks/Rain100L"
    pairs = [
        (read(path), read(folder / "clean" / path.name))
        for path in sorted((folder / "rainy").iterdir())
    ]
    assert len(pairs) == 46
    assert np.mean([psnr(a, b) for a, b in pairs]) == pytest.approx(26.539, abs=0.001)
    assert np.mean([ssim(a, b) for a, b in pairs]) == pytest.approx(0.82810, abs=0.0001)


@pytest.mark.parametrize("shape", [(), (4,), (2, 2, 4)])
def test_luma_of_what_is_not_rgb_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="the last axis must be R, G, B"):
        rgb_to_y(np.zeros(shape))
