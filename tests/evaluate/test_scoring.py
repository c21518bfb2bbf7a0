"""Scores of complete images, the table of means, and the contact sheet."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ipt_jax.degradations.grey import is_grey
from ipt_jax.degradations.noise import Noise
from ipt_jax.errors import DataError
from ipt_jax.evaluate.results import format_means, mean_score, standard_error
from ipt_jax.evaluate.scoring import (
    BenchmarkImage,
    Score,
    baseline,
    generator,
    kind_of_noise,
    make_lq,
    score_images,
    score_network,
    unclipped,
)
from ipt_jax.images.resize import bicubic, bicubic_up
from ipt_jax.metrics import psnr, ssim
from ipt_jax.restore.images import to_uint8
from ipt_jax.tasks import TASKS

DENOISE, SR4 = TASKS["denoise50"], TASKS["sr4"]


def photograph(height: int = 90, width: int = 75, seed: int = 0) -> np.ndarray:
    """Returns smooth noise, which a network could restore."""
    raw = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return cv2.normalize(cv2.GaussianBlur(raw, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


def linear_enlargement(scale: int):
    return lambda tiles: np.stack(
        [cv2.resize(t, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR) for t in tiles]
    )


def test_scores_are_those_of_the_stored_pictures_with_the_task_s_border():
    pictures = [
        BenchmarkImage("a", photograph(91, 76, 1)),
        BenchmarkImage("b", photograph(40, 50, 2)),
    ]
    results = list(
        score_network(
            lambda task: linear_enlargement(2), pictures, TASKS["sr2"], tile=48, overlap=12, batch=3
        )
    )
    assert [score.picture for score, *_ in results] == ["a", "b"]
    for picture, (score, hq, before, after) in zip(pictures, results, strict=True):
        height, width = (s // 2 * 2 for s in picture.hq.shape[:2])
        np.testing.assert_array_equal(hq, picture.hq[:height, :width])
        np.testing.assert_array_equal(before, bicubic_up(bicubic(hq, 2), 2))
        assert after.dtype == np.uint8 and after.shape == hq.shape
        for image, values in ((before, score.before), (after, score.after)):
            assert values == {
                "psnr_y": psnr(image, hq, "y", 2),
                "psnr_rgb": psnr(image, hq, "rgb", 2),
                "ssim_y": ssim(image, hq, "y", 2),
                "ssim_rgb": ssim(image, hq, "rgb", 2),
            }
        # Bilinear is a little worse than bicubic; a shifted image would be much worse.
        assert score.before["psnr_y"] - 6 < score.after["psnr_y"] < score.before["psnr_y"]


def test_the_ensemble_and_the_protocol_reach_the_tiles():
    picture, seen = BenchmarkImage("a", photograph(60, 96)), []
    apply = lambda tiles: (seen.append(len(tiles)), tiles)[1]  # noqa: E731
    settings = dict(tile=48, overlap=12, batch=1)
    list(
        score_network(
            lambda task: apply,
            [picture],
            TASKS["denoise30"],
            protocol="official",
            ensemble=True,
            **settings,
        )
    )
    assert len(seen) == 80


def test_noise_depends_on_seed_and_name_and_nothing_else():
    picture, task = BenchmarkImage("a", photograph()), TASKS["denoise50"]
    lq, hq = make_lq(picture, task, 0)
    np.testing.assert_array_equal(lq, make_lq(picture, task, 0)[0])
    assert lq.dtype == np.float32 and lq.min() >= 0 and lq.max() <= 255
    assert not np.array_equal(lq, make_lq(picture, task, 1)[0])
    assert not np.array_equal(lq, make_lq(BenchmarkImage("b", hq), task, 0)[0])
    # The first draws for a name are the same on every machine.
    np.testing.assert_allclose(
        generator(0, "101085").standard_normal(3, dtype=np.float32), FIRST_DRAWS, rtol=1e-6
    )


FIRST_DRAWS = [0.51584917, 2.7333188, 0.41718754]


def test_noise_without_clipping_has_the_same_draws():
    picture, task = BenchmarkImage("a", photograph()), TASKS["denoise50"]
    free = unclipped(task)
    assert free.degrade == Noise(50.0, clipped=0.0) and free.name == "denoise50"
    clipped, hq = make_lq(picture, task, 3)
    lq, _ = make_lq(picture, free, 3)
    np.testing.assert_array_equal(np.clip(lq, 0, 255), clipped)
    assert np.std(lq - hq) == pytest.approx(50, rel=0.02)
    assert unclipped(TASKS["sr2"]) is TASKS["sr2"]


def test_a_pair_s_own_input_is_used_and_its_size_checked():
    hq = photograph(60, 61)
    lq = np.full((30, 30, 3), 9, np.uint8)
    np.testing.assert_array_equal(make_lq(BenchmarkImage("a", hq, lq), TASKS["sr2"], 0)[0], lq)
    with pytest.raises(DataError, match=r"a: .*30x30.*61x60.*20x20"):
        make_lq(BenchmarkImage("a", hq, lq), TASKS["sr3"], 0)
    with pytest.raises(DataError, match="tiny is 3x3, too small for sr4"):
        make_lq(BenchmarkImage("tiny", hq[:3, :3]), TASKS["sr4"], 0)


def test_a_metric_that_a_tiny_picture_does_not_have_is_nan():
    tiny = [BenchmarkImage("small", photograph(9, 20)), BenchmarkImage("big", photograph(30, 30))]
    small, big = (
        score for score, *_ in score_images(lambda pairs: (p.lq for p in pairs), tiny, DENOISE)
    )
    assert (
        small.after["psnr_y"] > 10
        and np.isnan([small.after["ssim_y"], small.after["ssim_rgb"]]).all()
    )
    mean = mean_score([small, big])
    assert mean.after["ssim_y"] == big.after["ssim_y"]
    assert mean.after["psnr_y"] == (small.after["psnr_y"] + big.after["psnr_y"]) / 2
    # A border of 4 leaves nothing of 8x8 pixels.
    four = score_images(
        lambda pairs: (p.hq for p in pairs), [BenchmarkImage("8", photograph(8, 8))], SR4
    )
    assert np.isnan(list(next(four)[0].after.values())).all()


def test_a_grey_picture_gets_grey_noise():
    """As in tables for grey sets: on grey levels, noise of sigma 50 is 14.15 dB."""
    grey = np.repeat(photograph(128, 128)[..., :1], 3, axis=2)
    colour = grey.copy()
    colour[5, 5, 0] ^= 1
    free = unclipped(DENOISE)
    for image, kind in ((grey, "grey"), (colour, "colour")):
        picture = BenchmarkImage("a", image)
        lq, hq = make_lq(picture, free, 0)
        assert kind_of_noise(picture, free) == kind
        assert is_grey(lq) == (kind == "grey") and lq.dtype == np.float32 and lq.shape == hq.shape
        noise = (lq - hq)[..., 0].astype(np.float64)
        assert 20 * np.log10(255 / np.sqrt(np.mean(noise**2))) == pytest.approx(14.15, abs=0.1)
        # Noise of three channels is weaker on luma.
        weaker = psnr(np.clip(np.rint(lq), 0, 255).astype(np.uint8), hq, "y")
        assert (weaker > 18) == (kind == "colour")
    (score, *_), *_ = score_images(lambda ps: (p.lq for p in ps), [BenchmarkImage("a", grey)], free)
    assert score.noise == "grey"
    # The noise within a chain, too; and no noise where there is none.
    lq, _ = make_lq(BenchmarkImage("a", grey), TASKS["photo2"], 0)
    assert is_grey(lq) and lq.dtype == np.uint8
    assert kind_of_noise(BenchmarkImage("a", grey), TASKS["photo2"]) == "grey"
    assert kind_of_noise(BenchmarkImage("a", grey), SR4) == ""
    assert kind_of_noise(BenchmarkImage("a", grey, lq), TASKS["photo2"]) == ""


def test_standard_errors():
    values = [30.0, 32.0, 37.0]
    assert standard_error(values) == pytest.approx(np.std(values, ddof=1) / 3**0.5)
    assert standard_error([*values, np.nan]) == standard_error(values)
    assert np.isnan(standard_error([30.0])) and np.isnan(standard_error([30.0, np.inf]))


def test_baseline():
    lq = photograph(20, 20)
    np.testing.assert_array_equal(baseline(lq, TASKS["sr3"]), bicubic_up(lq, 3))
    noisy = np.array([[[-4.0, 3.5, 300.0]]], np.float32)
    np.testing.assert_array_equal(baseline(noisy, TASKS["denoise50"]), to_uint8(noisy))


def a_score(task: str, before: float, after: float) -> Score:
    values = lambda v: {"psnr_y": v, "psnr_rgb": v - 1, "ssim_y": v / 100, "ssim_rgb": v / 200}  # noqa: E731
    return Score("x", task, values(before), values(after))


def test_mean_and_table():
    average = mean_score([a_score("sr2", 30, 32), a_score("sr2", 34, 37)])
    assert average.before["psnr_y"] == 32 and average.after["ssim_y"] == pytest.approx(0.345)
    text = format_means([average, a_score("denoise50", 20, 28)])
    lines = text.splitlines()
    assert len(lines) == 3 and len(set(map(len, lines))) == 1
    assert lines[1].split() == [
        "sr2",
        "32.00",
        "34.50",
        "+2.50",
        "31.00",
        "33.50",
        "0.3200",
        "0.3450",
    ]


@pytest.mark.parametrize("clip, y, rgb", [(True, 19.65, 15.00), (False, None, 14.15)])
def test_noisy_cbsd68_scores_as_published(benchmarks, clip, y, rgb):
    from ipt_jax.evaluate.sets import find_sets

    (cbsd68,) = find_sets(benchmarks, ["CBSD68"])
    task = TASKS["denoise50"] if clip else unclipped(TASKS["denoise50"])
    ys, rgbs = [], []
    for picture in cbsd68.pictures(task):
        lq, hq = make_lq(picture, task, 0)
        rgbs.append(10 * np.log10(255**2 / np.mean((lq.astype(np.float64) - hq) ** 2)))
        ys.append(psnr(to_uint8(lq), hq, "y"))
    assert len(rgbs) == 68
    assert np.mean(rgbs) == pytest.approx(rgb, abs=0.01)
    if y is not None:
        assert np.mean(ys) == pytest.approx(y, abs=0.01)
