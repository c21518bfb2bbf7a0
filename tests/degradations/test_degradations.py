"""Blur, JPEG, chains and blind noise: against OpenCV's, Pillow's and their own definitions, and as
crops of a whole picture.
"""

from __future__ import annotations

import io
import pickle

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ipt_jax.data.crops import make_pair, turned
from ipt_jax.degradations.bicubic import Bicubic
from ipt_jax.degradations.blur import (
    GaussianBlur,
    KernelBlur,
    MotionBlur,
    blurred,
    gaussian_kernel,
    motion_kernel,
)
from ipt_jax.degradations.chain import Chain, OneOf
from ipt_jax.degradations.jpeg import Jpeg
from ipt_jax.degradations.noise import Noise
from ipt_jax.tasks import Task, entry_of, make_task


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """Smooth noise with sharp edges in it."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(
        rng.integers(0, 256, (9, 9, 3), dtype=np.uint8),
        (width, height),
        interpolation=cv2.INTER_CUBIC,
    )
    image[height // 3 :, width // 2 :] = 255 - image[height // 3 :, width // 2 :]
    return image


class Places:
    """A generator that gives a crop's place first, and otherwise is a real one."""

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
    # A remainder is left out
    image = picture(seed, 75 * task.scale + task.scale - 1, 87 * task.scale)
    whole = image[: 75 * task.scale, : 87 * task.scale]
    lq, hq = make_pair(image, task, tile, Places((top, left, turn)), flips=True)
    # JPEG's grid is that of the picture as it is stored
    if getattr(degrade, "grid", 1) > 1:
        expected = degrade(whole, np.random.default_rng(0))[top : top + tile, left : left + tile]
        expected = turned(expected, turn)
    # The turned picture is degraded; the crop is at the place to which the turn moves it
    else:
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


@pytest.mark.parametrize("quality", [1, 10, 50, 75, 95, 100])
def test_jpeg_is_pillows(quality):
    """Both are libjpeg's, with the same tables: a level here and there may differ by the version's
    arithmetic.
    """
    image = picture(quality, 61, 83)
    ours = Jpeg(quality)(image, np.random.default_rng(0))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=2)
    theirs = np.asarray(Image.open(buffer).convert("RGB"))
    assert ours.dtype == np.uint8 and ours.shape == image.shape
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert np.mean(ours != theirs) < 0.01
    if quality <= 50:
        assert np.abs(ours.astype(int) - image).mean() > 1


def test_jpeg_draws_its_quality():
    image = picture(3, 48, 48)
    by_quality = {Jpeg(q)(image, np.random.default_rng(0)).tobytes(): q for q in range(10, 41)}
    drawn = [
        by_quality[Jpeg((10, 40))(image, np.random.default_rng(seed)).tobytes()]
        for seed in range(200)
    ]
    assert min(drawn) <= 12 and max(drawn) >= 38 and 22 < np.mean(drawn) < 28


@pytest.mark.parametrize("length, angle", [(1, 0), (5, 0), (8, 90), (7, 45), (12, 33.3), (15, 170)])
def test_motion_blur_is_the_mean_of_shifted_pictures(length, angle):
    """OpenCV's own bilinear shifts; its bilinear weights have 5 bits, so fractions of a pixel are
    good to 1/64.
    """
    image = picture(length, 64, 72)
    total = np.zeros(image.shape, np.float64)
    for t in np.arange(length) - (length - 1) / 2:
        # The kernel is laid on: what lies at +offset is taken to the middle.
        dx, dy = t * np.cos(np.radians(angle)), -t * np.sin(np.radians(angle))
        shift = np.float64([[1, 0, -dx], [0, 1, -dy]])
        total += cv2.warpAffine(
            image.astype(np.float64),
            shift,
            (72, 64),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )
    ours = MotionBlur(length, angle)(image, np.random.default_rng(0))
    difference = np.abs(ours - total / length)[12:-12, 12:-12]
    assert difference.mean() < 0.5 and difference.max() < 6


def test_kernels_are_what_they_say():
    box = motion_kernel(5, 0)
    np.testing.assert_allclose(box[box.shape[0] // 2, 1:-1], 0.2, atol=1e-12)
    for length in (1, 4, 9.0, 20):
        for angle in (0, 17, 45, 90, 133):
            kernel = motion_kernel(int(length), angle)
            assert (
                kernel.sum() == pytest.approx(1) and kernel.min() >= 0 and kernel.shape[0] % 2 == 1
            )
            # Does not move the picture
            np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-9)
            assert kernel.shape[0] // 2 <= MotionBlur(length, angle).margin + 1
    kernel = gaussian_kernel(2.0)
    y, x = np.mgrid[-6:7, -6:7]
    assert (kernel * x**2).sum() == pytest.approx(4, rel=0.03) and (
        kernel * y
    ).sum() == pytest.approx(0, abs=1e-12)
    np.testing.assert_array_equal(
        blurred(picture(0, 20, 20), gaussian_kernel(0.0)), picture(0, 20, 20)
    )


def test_gaussian_blur_is_opencvs():
    image = picture(1, 50, 60)
    for sigma in (0.6, 1.5, 3.0):
        side = 2 * int(np.ceil(3 * sigma)) + 1
        theirs = cv2.GaussianBlur(
            image.astype(np.float64), (side, side), sigma, borderType=cv2.BORDER_REFLECT
        )
        assert (
            np.abs(GaussianBlur(sigma)(image, np.random.default_rng(0)) - theirs).max()
            <= 0.5 + 1e-5
        )


def test_blind_noise_has_its_distribution():
    grey = np.full((64, 64, 3), 128, np.uint8)
    noise = Noise((10, 50))
    sigmas = np.array(
        [(noise(grey, np.random.default_rng(seed)) - 128.0).std() for seed in range(400)]
    )
    # Uniform in 10..50, seen through the 0.64 % that 12,288 samples leave on a standard deviation;
    # clipping takes 2 % at 50.
    assert 9.7 < sigmas.min() < 11 and 47.5 < sigmas.max() < 50.5
    grid = np.linspace(0, 1, 21)
    # 1.36 * 40 / sqrt(400) is 2.7 (5 %), twice
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
    # Four standard deviations of a binomial draw
    assert abs(clean - 200) < 51 and abs(free - 400) < 62
    assert all(crop.dtype == np.float32 for crop in crops)
    textured = picture(1, 16, 16)
    same = sum(np.array_equal(Jpeg(20, clean=0.3)(textured, rng), textured) for _ in range(1000))
    assert abs(same - 300) < 58


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
    # JPEG and its grid, no noise, bicubic, 6 pixels of hq
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


def test_kernel_files(tmp_path):
    image = picture(5, 40, 40)
    kernel = np.array([[0, 1, 0], [2, 4, 2], [0, 1, 0]], float)
    np.save(tmp_path / "k.npy", kernel)
    np.savetxt(tmp_path / "k.txt", kernel)
    cv2.imwrite(str(tmp_path / "k.png"), (kernel * 60).astype(np.uint8))
    expected = blurred(image, kernel / 10)
    for name in ("k.npy", "k.txt", "k.png"):
        degrade = KernelBlur(str(tmp_path / name))
        assert degrade.margin == 1
        np.testing.assert_array_equal(degrade(image, np.random.default_rng(0)), expected)
    np.save(tmp_path / "even.npy", np.ones((1, 4)))
    # Four files
    assert (
        len(
            {
                KernelBlur(str(tmp_path))(image, np.random.default_rng(s)).tobytes()
                for s in range(30)
            }
        )
        == 2
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((3, 3)), "all zero"),
        (-np.ones((3, 3)), "not negative"),
        (np.full((3, 3), np.nan), "finite"),
        (np.ones((3, 3, 3)), r"shape \(3, 3, 3\)"),
        (np.ones((301, 3)), "at most 201"),
        (None, "is no kernel"),
    ],
)
def test_a_file_that_is_no_kernel_is_named(content, message, tmp_path):
    file = tmp_path / "odd.npy"
    if content is None:
        file.write_bytes(b"not an array")
    else:
        np.save(file, content)
    with pytest.raises(ValueError, match=rf"odd.npy.*{message}"):
        KernelBlur(str(file))(picture(0, 20, 20), np.random.default_rng(0))
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        _ = KernelBlur(str(tmp_path / "none.npy")).margin
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no kernel"):
        _ = KernelBlur(str(tmp_path / "empty")).margin


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"degradation": "jpeg", "quality": 0},
            "quality must be a number or a range .* 1 to 100, not 0",
        ),
        ({"degradation": "jpeg", "quality": [50, 20]}, "quality must be"),
        ({"degradation": "jpg", "quality": 10}, "did you mean 'jpeg'"),
        ({"degradation": "motion_blur", "length": 200}, "length, in pixels"),
        ({"degradation": "gaussian_blur", "sigma": -1}, "sigma, in pixels"),
        ({"degradation": "noise", "sigma": [10, "x"]}, "sigma, in grey levels"),
        ({"degradation": "chain", "steps": []}, "at least one"),
        ({"degradation": "chain", "steps": ["jpeg"]}, "a list of"),
        (
            {"degradation": "chain", "steps": [{"degradation": "jpeg", "qality": 3}]},
            "no field 'qality' .did you mean 'quality'",
        ),
        (
            {"degradation": "chain", "steps": [{"degradation": "pairs"}]},
            "'pairs' cannot be among the steps of 'chain'",
        ),
        (
            {"degradation": "chain", "steps": [{"degradation": "chain", "steps": []}]},
            "'chain' cannot be among the steps",
        ),
        ({"degradation": "one_of", "choices": []}, "at least one"),
        ({"degradation": "one_of", "choices": ["noise"]}, "a list of"),
        (
            {
                "degradation": "one_of",
                "choices": [
                    {"degradation": "noise", "sigma": 1},
                    {"degradation": "bicubic", "scale": 2},
                ],
            },
            "one scale, not x1, x2",
        ),
        (
            {
                "degradation": "one_of",
                "choices": [{"degradation": "noise", "sigma": 1}],
                "share": [0.5],
            },
            "a sum of 1",
        ),
        ({"degradation": "noise", "sigma": 1, "clipped": 2}, "clipped must be a share, 0 to 1"),
        ({"degradation": "noise", "sigma": 1, "clean": "x"}, "clean must be a share"),
        ({"degradation": "jpeg", "quality": 10, "clean": -1}, "clean must be a share"),
    ],
)
def test_what_is_no_degradation_is_refused_by_name(entry, message):
    with pytest.raises(ValueError, match=rf"task 'n'.*{message}"):
        make_task({"name": "n", **entry})
