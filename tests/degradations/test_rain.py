"""Rain: its statistics follow its parameters; the defaults match Rain100L."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from ipt_jax.degradations.rain import Rain, RainFolder, rain_layer
from ipt_jax.metrics import psnr


def benchmark_data() -> Path:
    folder = os.environ.get("IPT_TEST_DATA")
    if not folder:
        pytest.skip(
            "needs the benchmark pictures: set IPT_TEST_DATA to the folder that holds benchmarks/"
        )
    return Path(folder)


def read(path: Path, flag: int = cv2.IMREAD_COLOR) -> np.ndarray:
    image = cv2.imread(str(path), flag)
    assert image is not None, path
    return image


def layer(seed: int = 0, shape: tuple[int, int] = (300, 340), **options: float) -> np.ndarray:
    return rain_layer(shape, np.random.default_rng(seed), **options)


def orientation(image: np.ndarray) -> float:
    """Returns the angle by the structure tensor: degrees from the vertical, top to the right."""
    smooth = cv2.GaussianBlur(image, (0, 0), 1.0)
    dx, dy = cv2.Scharr(smooth, cv2.CV_32F, 1, 0), cv2.Scharr(smooth, cv2.CV_32F, 0, 1)
    return float(
        0.5 * np.degrees(np.arctan2(2 * np.mean(dx * dy), np.mean(dx * dx) - np.mean(dy * dy)))
    )


def half_height(image: np.ndarray, axis: int) -> int:
    """Returns the lag along an axis at which the autocorrelation has fallen to one half."""
    centred = np.moveaxis(image - image.mean(), axis, 0)
    variance = np.mean(centred**2)
    return next(k for k in range(1, 150) if np.mean(centred[k:] * centred[:-k]) < 0.5 * variance)


@pytest.mark.parametrize("angle", [-80, -50, -30, -8, 0, 15, 40, 46, 70, 110])
def test_orientation_follows_the_angle(angle: float) -> None:
    drawn = layer(angle=angle)
    assert drawn.dtype == np.float32
    assert drawn.shape == (300, 340)
    assert abs((orientation(drawn) - angle + 90) % 180 - 90) < 1.5


def test_amount_follows_density_and_intensity_but_not_length() -> None:
    def mean(**options: float) -> float:
        return float(np.mean([layer(seed, (300, 340), **options).mean() for seed in range(4)]))

    base = mean(density=60)
    assert mean(density=120) == pytest.approx(2 * base, rel=0.15)
    assert mean(density=60, intensity=70) == pytest.approx(2 * base, rel=0.15)
    assert mean(density=60, length=50) == pytest.approx(base, rel=0.15)
    assert mean(density=60, width=1.2) < 0.85 * base
    covered = [np.mean(layer(density=density) > 5) for density in (30, 60, 120, 240)]
    assert covered == sorted(covered)
    assert covered[0] < 0.5 * covered[2]
    assert not layer(density=0).any()


def test_size_follows_length_and_width() -> None:
    assert half_height(layer(length=40), 0) > 1.5 * half_height(layer(length=15), 0)
    assert half_height(layer(length=26), 0) > 5 * half_height(layer(length=26), 1)
    wide, narrow = (cv2.GaussianBlur(layer(width=w), (3, 3), 0.5) for w in (2.6, 1.1))
    assert np.std(np.diff(wide, axis=1)) / np.std(wide) < 0.8 * np.std(
        np.diff(narrow, axis=1)
    ) / np.std(narrow)


def test_a_small_layer_is_like_a_crop_of_a_large_one() -> None:
    """Streaks that begin outside reach in, so neither it nor its edges are darker."""
    small = np.mean([layer(seed, (24, 24), angle=25) for seed in range(3000)], axis=0)
    large = np.mean([layer(seed, angle=25).mean() for seed in range(10)])
    assert small.mean() == pytest.approx(large, rel=0.08)
    for edge in (small[:2], small[-2:], small[:, :2], small[:, -2:]):
        assert edge.mean() == pytest.approx(large, rel=0.12)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (3, 7)])
def test_tiny_layers(shape: tuple[int, int]) -> None:
    for angle in (0, 30, 80):
        drawn = layer(1, shape, angle=angle)
        assert drawn.shape == shape
        assert np.isfinite(drawn).all()


def test_rain_is_grey_additive_and_clipped() -> None:
    rng = np.random.default_rng(3)
    hq = rng.integers(0, 200, (80, 96, 3), dtype=np.uint8)
    lq = Rain()(hq, np.random.default_rng(5))
    added = lq - hq
    on_black = Rain()(np.zeros_like(hq), np.random.default_rng(5))
    assert (on_black[..., 0] == on_black[..., 1]).all()
    assert (on_black[..., 0] == on_black[..., 2]).all()
    assert on_black.any()
    assert added.min() >= 0
    assert lq.max() <= 255
    np.testing.assert_array_equal(lq, np.minimum(hq + on_black, np.float32(255)))
    assert (lq != np.rint(lq)).any()
    assert (Rain()(np.full_like(hq, 255), np.random.default_rng(5)) == 255).all()


def test_every_picture_draws_its_parameters_from_the_ranges() -> None:
    black = np.zeros((160, 160, 3), np.uint8)
    rain = Rain(angle=(20, 25))
    angles = [orientation(rain(black, np.random.default_rng(seed))[..., 0]) for seed in range(12)]
    assert 18 < min(angles) < max(angles) < 27
    assert max(angles) - min(angles) > 1.5
    weak, strong = Rain(intensity=(10, 12)), Rain(intensity=(80, 90))
    assert (
        weak(black, np.random.default_rng(0)).mean()
        < 0.3 * strong(black, np.random.default_rng(0)).mean()
    )


@pytest.mark.parametrize("name", ["density", "length", "width", "intensity", "angle"])
def test_ranges_are_checked(name: str) -> None:
    for span in ((3.0, 2.0), (1.0,), (1.0, float("inf")), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match=f"Rain: {name} must be a range"):
            Rain(**{name: span})  # type: ignore[arg-type]
    if name != "angle":
        with pytest.raises(ValueError, match="above 0"):
            Rain(**{name: (0.0, 2.0)})
    listed = Rain(**{name: [1.0, 2.0]})  # type: ignore[arg-type]
    assert hash(listed) == hash(Rain(**{name: (1.0, 2.0)}))


def test_defaults_have_rain100ls_strength() -> None:
    """In its 46 pairs, 26.7 % of the rain is above 2 grey levels and 14.8 % above 10.

    The mean square is 10^2.32 (docs/rain.md).
    """
    black = np.zeros((160, 160, 3), np.uint8)
    layers = [Rain()(black, np.random.default_rng(seed))[..., 0] for seed in range(200)]
    assert np.mean([x > 2 for x in layers]) == pytest.approx(0.267, abs=0.04)
    assert np.mean([x > 10 for x in layers]) == pytest.approx(0.148, abs=0.03)
    energy = [np.log10(np.mean(x**2)) for x in layers]
    assert np.mean(energy) == pytest.approx(2.32, abs=0.2)
    assert np.std(energy) == pytest.approx(0.44, abs=0.12)


def test_psnr_over_the_clean_pictures_of_rain100l() -> None:
    scores = []
    for index, file in enumerate(
        sorted((benchmark_data() / "benchmarks/Rain100L/clean").iterdir())
    ):
        clean = read(file)[..., ::-1]
        for draw in range(2):
            rainy = Rain()(clean, np.random.default_rng([index, draw]))
            scores.append(psnr(np.floor(rainy + 0.5).astype(np.uint8), clean))
    assert len(scores) == 92
    assert np.mean(scores) == pytest.approx(26.54, abs=1.5)
    assert np.std(scores) == pytest.approx(4.37, abs=1.2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, shape in (("b.png", (90, 100)), ("a.jpg", (70, 80)), ("c.PNG", (20, 30))):
        cv2.imwrite(str(tmp_path / name), rng.integers(0, 100, shape, dtype=np.uint8))
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


def test_rain_folder_adds_grey_crops_of_its_pictures(folder: Path) -> None:
    for name in ("a.jpg", "c.PNG"):
        (folder / name).unlink()
    streaks = read(folder / "b.png", cv2.IMREAD_GRAYSCALE).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(streaks, (40, 50))
    hq = np.full((40, 50, 3), 180, np.uint8)
    places = set()
    for seed in range(8):
        lq = RainFolder(str(folder))(hq, np.random.default_rng(seed))
        assert lq.dtype == np.float32
        assert (lq[..., 0] == lq[..., 1]).all()
        assert (lq[..., 0] == lq[..., 2]).all()
        found = np.argwhere((np.minimum(180 + windows, 255) == lq[..., 0]).all(axis=(2, 3)))
        assert len(found) == 1
        places.add(tuple(found[0]))
    assert len(places) > 4


def test_rain_folder_repeats_small_pictures(folder: Path) -> None:
    for name in ("a.jpg", "b.png"):
        (folder / name).unlink()
    lq = RainFolder(str(folder))(np.zeros((50, 25, 3), np.uint8), np.random.default_rng(0))
    assert lq.shape == (50, 25, 3)
    np.testing.assert_array_equal(lq[:30], lq[20:])


def test_rain_folder_is_a_pure_function_and_uses_every_picture(folder: Path) -> None:
    rain = pickle.loads(pickle.dumps(RainFolder(str(folder))))
    assert rain == RainFolder(str(folder))
    hq = np.zeros((10, 10, 3), np.uint8)
    results = [rain(hq, np.random.default_rng(seed)) for seed in range(20)]
    again = [RainFolder(str(folder))(hq, np.random.default_rng(seed)) for seed in range(20)]
    np.testing.assert_array_equal(results, again)
    pictures = [read(folder / name, cv2.IMREAD_GRAYSCALE) for name in ("a.jpg", "b.png", "c.PNG")]
    views = [np.lib.stride_tricks.sliding_window_view(image, (10, 10)) for image in pictures]
    for view in views:
        assert any((view == result[..., 0]).all(axis=(2, 3)).any() for result in results)


def test_rain_folder_errors(tmp_path: Path) -> None:
    hq, rng = np.zeros((8, 8, 3), np.uint8), np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"absent.* is not a folder"):
        RainFolder(str(tmp_path / "absent"))(hq, rng)
    with pytest.raises(ValueError, match="holds no image"):
        RainFolder(str(tmp_path))(hq, rng)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "x.png").write_bytes(b"not a png")
    with pytest.raises(ValueError, match=r"x\.png.* cannot be read"):
        RainFolder(str(broken))(hq, rng)


def test_streaks_may_have_any_name_and_must_be_regular_files(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((9, 9), 50, np.uint8))
    (tmp_path / "streaks").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "streaks" / os.fsdecode(b"\xff.png"))
    clean = np.zeros((9, 9, 3), np.uint8)
    lq = RainFolder(str(tmp_path / "streaks"))(clean, np.random.default_rng(0))
    np.testing.assert_array_equal(lq, 50)
    (tmp_path / "pipes").mkdir()
    os.mkfifo(tmp_path / "pipes" / "a.png")
    with pytest.raises(ValueError, match="a named pipe, not a regular file"):
        RainFolder(str(tmp_path / "pipes"))(clean, np.random.default_rng(0))
