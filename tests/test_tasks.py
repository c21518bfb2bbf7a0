"""The table of tasks, and tasks that a config makes."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from textures import picture

from ipt_jax.degradations.bicubic import Bicubic
from ipt_jax.degradations.blur import GaussianBlur, MotionBlur
from ipt_jax.degradations.jpeg import Jpeg
from ipt_jax.degradations.noise import Noise
from ipt_jax.degradations.rain import Rain, RainFolder
from ipt_jax.messages import nearest
from ipt_jax.tasks import DEGRADATIONS, PAPER_TASKS, TASKS, Task, entry_of, make_task, make_tasks


def test_the_papers_tasks_are_in_the_order_of_the_published_file():
    assert PAPER_TASKS == ("sr2", "sr3", "sr4", "derain", "denoise30", "denoise50")
    assert [TASKS[name].scale for name in PAPER_TASKS] == [2, 3, 4, 1, 1, 1]
    assert [task.name for task in make_tasks(PAPER_TASKS)] == list(PAPER_TASKS)
    assert TASKS["denoise30"].degrade == Noise(30.0) and TASKS["denoise50"].degrade == Noise(50.0)


def test_every_task_of_the_table_goes_through_a_weights_folders_json_and_back():
    for task in TASKS.values():
        entry = json.loads(json.dumps(entry_of(task.degrade)))
        assert make_task({"name": task.name, **entry}) == task


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_a_task_keeps_what_it_promises(task):
    tile = 10
    hq = np.random.default_rng(0).integers(
        0, 256, (tile * task.scale, tile * task.scale, 3), dtype=np.uint8
    )
    before = hq.copy()
    lq, again = (task.degrade(hq, np.random.default_rng(1)) for _ in range(2))
    assert lq.shape == (tile, tile, 3)
    assert lq.dtype == (np.uint8 if task.degrade.rounded else np.float32)
    # Half of the noise of `denoise` is not clipped.
    if task.name != "denoise":
        assert lq.min() >= 0 and lq.max() <= 255
    np.testing.assert_array_equal(lq, again)
    np.testing.assert_array_equal(hq, before)
    assert task.degrade.margin >= (2 if task.scale > 1 else 0)
    assert pickle.loads(pickle.dumps(task)) == task


def test_sr_is_scored_without_a_border_of_its_scale():
    assert [task.border for task in make_tasks(PAPER_TASKS)] == [2, 3, 4, 0, 0, 0]
    assert TASKS["photo2"].border == 2


def test_the_blind_tasks_are_as_documented():
    assert [name for name in TASKS if name not in PAPER_TASKS] == [
        "denoise",
        "jpeg",
        "photo2",
        "deblur",
    ]
    assert TASKS["denoise"].degrade == Noise((0, 55), clipped=0.5, clean=0.1)
    assert TASKS["jpeg"].degrade == Jpeg((10, 95), clean=0.1)
    steps = TASKS["photo2"].degrade.steps
    assert [type(step) for step in steps] == [GaussianBlur, Bicubic, Noise, Jpeg]
    assert [type(one) for one in TASKS["deblur"].degrade.choices] == [GaussianBlur, MotionBlur]


def test_the_blind_tasks_draw_the_strength_for_each_crop():
    hq, clean = picture(0, 32, 32), {}
    for name in ("denoise", "jpeg", "deblur"):
        degrade, rng = TASKS[name].degrade, np.random.default_rng(1)
        errors = np.array(
            [np.abs(degrade(hq, rng).astype(np.float32) - hq).mean() for _ in range(300)]
        )
        clean[name] = int((errors == 0).sum())
        # JPEG has 86 qualities.
        assert len(set(errors.round(3))) > 40 and errors.max() > 2 * np.quantile(errors, 0.1)
    # 5 % of the crops, within four standard deviations of a binomial distribution.
    assert 1 <= clean["denoise"] <= 31 and 1 <= clean["jpeg"] <= 31 and clean["deblur"] == 0


def test_half_of_the_blind_noise_is_clipped():
    black, rng = np.zeros((16, 16, 3), np.uint8), np.random.default_rng(2)
    crops = [TASKS["denoise"].degrade(black, rng) for _ in range(400)]
    # Half of the 95 % that are noisy, within four standard deviations.
    assert abs(sum(crop.min() < 0 for crop in crops) - 190) < 40


@pytest.mark.parametrize("name", ["jpeg", "photo2"])
def test_tasks_with_jpeg_cut_on_its_grid(name):
    assert TASKS[name].degrade.grid == 16 and TASKS[name].degrade.rounded


def test_a_config_makes_new_tasks(tmp_path):
    assert make_task({"name": "denoise70", "degradation": "noise", "sigma": 70}) == Task(
        "denoise70", 1, Noise(70)
    )
    assert make_task({"name": "x3", "degradation": "bicubic", "scale": 3}) == Task(
        "x3", 3, Bicubic(3)
    )
    rain = make_task({"name": "drizzle", "degradation": "rain", "density": (10, 20)})
    assert rain.scale == 1 and rain.degrade == Rain(density=(10, 20))
    folder = make_task(
        {"name": "streaks", "degradation": "rain_folder", "directory": str(tmp_path)}
    )
    assert folder.degrade == RainFolder(str(tmp_path))
    assert {
        "bicubic",
        "noise",
        "rain",
        "rain_folder",
        "jpeg",
        "motion_blur",
        "chain",
        "pairs",
    } <= set(DEGRADATIONS)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("sr22", r"unknown task 'sr22' \(did you mean 'sr2'\?\); known: sr2, sr3"),
        ({"name": "a b", "degradation": "noise", "sigma": 1}, "must be a word .* not 'a b'"),
        ({"degradation": "noise", "sigma": 1}, "must be a word .* not None"),
        (
            {"name": "n", "degradation": "nose", "sigma": 1},
            r"task 'n': unknown degradation 'nose' \(did you mean 'noise'",
        ),
        (
            {"name": "n", "degradation": "noise", "sgma": 1},
            r"'noise' has no field 'sgma' \(did you mean 'sigma'\?\)",
        ),
        ({"name": "n", "degradation": "noise"}, "task 'n': .*sigma"),
        ({"name": "n", "degradation": "noise", "sigma": -1}, "task 'n': Noise: sigma"),
        (
            {"name": "s", "degradation": "bicubic", "scale": 1},
            "task 's': .*scale must be an integer, 2 or more",
        ),
        (
            {"name": "r", "degradation": "rain", "width": (2, 1)},
            "task 'r': Rain: width must be a range",
        ),
    ],
)
def test_entries_that_are_no_task_are_refused_by_name(entry, message):
    with pytest.raises(ValueError, match=message):
        make_task(entry)


def test_a_list_without_tasks_or_with_one_twice_is_refused():
    with pytest.raises(ValueError, match="no tasks"):
        make_tasks([])
    with pytest.raises(ValueError, match="more than once: sr2"):
        make_tasks(["sr2", {"name": "sr2", "degradation": "bicubic", "scale": 2}, "sr3"])


def test_hints_are_of_near_names_only():
    assert nearest("derian", TASKS) == " (did you mean 'derain'?)"
    assert nearest("colourise", TASKS) == ""
