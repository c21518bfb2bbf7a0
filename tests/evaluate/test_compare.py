"""Differences of two files of scores, and files that cannot be compared."""

from __future__ import annotations

import copy
import json
import pathlib

import numpy as np
import pytest

from ipt_jax.errors import UsageError
from ipt_jax.evaluate.compare import compare_files, paired_interval
from ipt_jax.metrics import METRICS


def scores(shift: float, spread: float = 0.0) -> dict:
    """Returns what `ipt evaluate --json` writes for a set of 20 images, shifted by so many dB."""
    rng = np.random.default_rng(0)
    levels, noise = rng.uniform(20, 40, 20), rng.normal(0, 1, 20)
    pictures = [
        {
            "picture": f"{i}",
            "input": dict.fromkeys(METRICS, float(level)),
            "result": dict.fromkeys(METRICS, float(level + 1 + shift + spread * noise[i])),
        }
        for i, level in enumerate(levels)
    ]
    row = {"set": "Set5", "task": "sr2", "scores": pictures}
    return {"seed": 0, "noise clip": "on", "rows": [row]}


def compare(folder: pathlib.Path, *found: dict):
    files = [folder / name for name in "ab"]
    for file, one in zip(files, found, strict=True):
        file.write_text(json.dumps(one))
    return compare_files(*files)


def test_a_known_difference_lies_in_its_interval_and_swapping_flips_the_sign(tmp_path):
    there = compare(tmp_path, scores(0), scores(0.3, 0.2))
    back = compare(tmp_path, scores(0.3, 0.2), scores(0))
    draws = 0.3 + 0.2 * np.random.default_rng(0).normal(0, 1, 40)[20:]
    assert [one.metric for one in there] == list(METRICS) and len(draws) == 20
    for one, other in zip(there, back, strict=True):
        assert one.images == 20 and one.low < one.mean < one.high
        # The half width is close to 1.96 standard errors.
        assert (one.high - one.low) / 2 == pytest.approx(1.96 * 0.2 / 20**0.5, rel=0.35)
        assert one.low < 0.3 < one.high
        swapped = [-other.mean, -other.high, -other.low]
        np.testing.assert_allclose([one.mean, one.low, one.high], swapped, atol=1e-9)


def test_equal_files_and_a_constant_shift_have_no_width(tmp_path):
    for shift in (0.0, 0.25):
        for one in compare(tmp_path, scores(0), scores(shift)):
            np.testing.assert_allclose([one.mean, one.low, one.high], shift, atol=1e-9)


def test_the_seed_decides_the_interval():
    draws = np.random.default_rng(1).normal(0, 1, 9).tolist()
    assert paired_interval(draws, 3) == paired_interval(draws, 3) != paired_interval(draws, 4)
    assert np.isnan(paired_interval([1.0])).all()


def test_scores_that_are_not_finite_are_left_out(tmp_path):
    changed = scores(0.5)
    changed["rows"][0]["scores"][3]["result"]["psnr_y"] = "inf"
    changed["rows"][0]["scores"][4]["result"]["psnr_y"] = None
    one = compare(tmp_path, scores(0), changed)[0]
    assert one.metric == "psnr_y" and one.images == 18 and one.mean == pytest.approx(0.5)


def changed_at(*path, value) -> dict:
    found = copy.deepcopy(scores(0))
    place = found
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return found


@pytest.mark.parametrize(
    "other, message",
    [
        (changed_at("seed", value=1), "seed is 0 and 1"),
        (changed_at("noise clip", value="off"), "noise clip is on and off"),
        (changed_at("rows", 0, "task", value="sr3"), "no set and task in common.*sr2.*sr3"),
        (changed_at("rows", 0, "scores", 2, "picture", value="x"), "Set5 sr2: other images: 2, x"),
        (
            changed_at("rows", 0, "scores", 2, "input", "psnr_y", value=10.0),
            "another input of 2: psnr_y",
        ),
        (changed_at("rows", value=[{}]), "not a file of ipt evaluate --json"),
    ],
)
def test_files_of_other_inputs_are_refused(tmp_path, other, message):
    with pytest.raises(UsageError, match=message):
        compare(tmp_path, scores(0), other)
