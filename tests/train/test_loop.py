"""Runs of a small model, in processes of their own where that matters."""

from __future__ import annotations

import json
import logging
import os
import pathlib
import re
import signal
import subprocess

import cv2
import jax
import numpy as np
import pytest
import small
import training
from ml_collections import ConfigDict
from training import arrays, assert_same, command, config, lines, settings, wait_for_step

from ipt_jax import trees
from ipt_jax.checkpoints.checkpoints import Checkpoints
from ipt_jax.config.loading import complete
from ipt_jax.errors import ConfigError, DataError, RunError, WeightsError
from ipt_jax.train.loop import pretrain

pytest.importorskip("skimage", reason="needs scikit-image's photographs")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> pathlib.Path:
    return training.make_photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module")
def straight(photographs, tmp_path_factory):
    """An uninterrupted run of 40 steps with evaluations."""
    workdir = tmp_path_factory.mktemp("straight")
    outcome = pretrain(
        config(
            photographs,
            evaluate={"every": 20, "pictures": 2, "batch": 4, "overlap": 4},
            log={"profile": "12:14"},
        ),
        str(workdir),
    )
    return workdir, outcome


def test_a_run_leaves_what_the_readme_says(straight):
    workdir, outcome = straight
    assert outcome.finished and outcome.step == 40
    logged = lines(workdir)
    steps = [line for line in logged if "loss" in line]
    assert [line["step"] for line in steps] == [5, 10, 15, 20, 25, 30, 35, 40]
    keys = {
        "step",
        "loss",
        "l1/sr2",
        "l1/denoise50",
        "contrastive",
        "lr",
        "grad_norm",
        "samples_per_s",
        "wait",
    }
    assert keys <= set(steps[0])
    scores = [line for line in logged if "held_out/sr2/psnr_y" in line]
    assert [line["step"] for line in scores] == [20, 40]
    assert {
        "held_out/denoise50/psnr_y",
        "held_out/denoise50/psnr_rgb",
        "held_out/denoise50/ssim_y",
    } <= set(scores[0])
    assert outcome.scores["denoise50"]["psnr_y"] == pytest.approx(
        scores[1]["held_out/denoise50/psnr_y"]
    )
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        # The last two are kept, and every 20th.
        assert checkpoints.steps() == [20, 30, 40]
        meta = checkpoints.read_meta()
    assert meta["config"]["model"]["features"] == 4 and {"jax", "flax", "ipt_jax"} <= set(
        meta["versions"]
    )
    assert json.loads((workdir / "config.json").read_text())["fingerprint"] == meta["fingerprint"]
    picture = cv2.imread(str(workdir / "evaluation" / "00000040.png"))
    assert picture is not None and picture.shape[0] > 2 * 90
    assert "denoise50" in (workdir / "evaluation" / "00000040.txt").read_text()
    assert list((workdir / "tensorboard").glob("events*"))


def test_the_log_has_what_the_time_was_spent_on(straight):
    steps = [line for line in lines(straight[0]) if "loss" in line]
    kinds = ("steps", "waiting", "saving", "evaluating", "compiling", "starting")
    shares = [{kind: line[f"time/{kind}"] for kind in kinds} for line in steps]
    assert all(sum(one.values()) == pytest.approx(1) for one in shares)
    # The first report comes before the first evaluation, and after one compilation.
    assert shares[0]["evaluating"] == 0 < shares[-1]["evaluating"]
    assert shares[0]["compiling"] > shares[-1]["compiling"] > 0.01
    assert all(one["steps"] > 0 and one["starting"] > 0 for one in shares)


def test_a_trace_of_the_steps_that_log_profile_names(straight):
    folder = straight[0] / "tensorboard" / "plugins" / "profile"
    assert [path.name for path in folder.glob("*")] == ["steps-12-14"]
    (trace,) = (folder / "steps-12-14").glob("*.xplane.pb")
    planes = {
        plane.name: [(line.name, [e.name for e in line.events]) for line in plane.lines]
        for plane in jax.profiler.ProfileData.from_file(str(trace)).planes
    }
    names = [name for lines in planes.values() for _, events in lines for name in events]
    assert names.count("train") == 3


def test_the_loss_of_a_run_falls(straight):
    """Means over 40 small steps are noisy, so this looks at denoising, which improves most."""
    noise = [line["l1/denoise50"] for line in lines(straight[0]) if "loss" in line]
    assert np.mean(noise[-2:]) < 0.8 * noise[0]
    assert (
        straight[1].scores["denoise50"]["psnr_y"]
        > straight[1].scores["denoise50"]["input_psnr_y"] + 1
    )


def test_stopped_and_resumed_is_bit_identical(straight, photographs, tmp_path):
    """A run of 17 steps is continued to 40."""
    first = pretrain(config(photographs, steps=17), str(tmp_path))
    assert (first.step, first.finished) == (17, True)
    second = pretrain(config(photographs), str(tmp_path))
    assert second.step == 40
    assert_same(arrays(tmp_path, 40), arrays(straight[0], 40))
    logged = [line["step"] for line in lines(tmp_path) if "loss" in line]
    assert logged == sorted(set(logged)) and logged[-1] == 40
    again = pretrain(config(photographs), str(tmp_path))
    # It is not an error that nothing is left to train.
    assert again.step == 40 and again.finished


@pytest.mark.slow
def test_muon_stopped_and_resumed_is_bit_identical(photographs, tmp_path):
    """Muon's state has other leaves than Adam's, and some that are masked out."""
    optim = {"name": "muon", "schedule_steps": 12}
    for steps in (5, 12):
        pretrain(config(photographs, steps=steps, optim=optim), str(tmp_path / "stopped"))
    pretrain(config(photographs, steps=12, optim=optim), str(tmp_path / "straight"))
    assert_same(arrays(tmp_path / "stopped", 12), arrays(tmp_path / "straight", 12))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_goes_on_bit_identical(number, straight, photographs, tmp_path):
    workdir = tmp_path / "run"
    run = command(photographs, workdir, tmp_path, "--config.steps=100000", "--config.log.every=1")
    process = subprocess.Popen(run, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_for_step(workdir, 3, process)
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, said
    stopped = int(
        re.search(
            r"stopped by SIG\w+ at step (\d+) of 100000, saved; start the same command again", said
        ).group(1)
    )
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        assert checkpoints.latest() == stopped >= 3
    assert "Traceback" not in said
    if stopped < 40:
        assert pretrain(config(photographs), str(workdir)).step == 40
        assert_same(arrays(workdir, 40), arrays(straight[0], 40))


def test_killed_at_once_and_started_again(straight, photographs, tmp_path):
    workdir = tmp_path / "run"
    run = command(photographs, workdir, tmp_path, "--config.log.every=1")
    process = subprocess.Popen(run, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for_step(workdir, 12, process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert subprocess.run(run, stderr=subprocess.DEVNULL, timeout=300).returncode == 0
    assert_same(arrays(workdir, 40), arrays(straight[0], 40))


def wsd(photographs, **changes) -> ConfigDict:
    optim = {"schedule": "wsd", **changes.pop("optim", {})}
    return config(photographs, optim=optim, **changes)


def with_steps(changed: ConfigDict, steps: int) -> ConfigDict:
    changed = changed.copy_and_resolve_references()
    changed.steps = steps
    return changed


@pytest.mark.slow
def test_a_branch_takes_the_whole_state_and_may_change_the_schedule_alone(
    photographs, tmp_path, caplog, monkeypatch
):
    """A branch without changes equals the run, to the bit; a decay ends at the final rate."""
    whole = str(tmp_path / "whole")
    pretrain(wsd(photographs, steps=20, checkpoint={"keep": 9}), whole)
    same = pretrain(wsd(photographs, steps=20, branch_from=f"{whole}@10"), str(tmp_path / "same"))
    assert same.step == 20
    assert_same(arrays(tmp_path / "same", 20), arrays(tmp_path / "whole", 20))
    decay = {"decay_start": 10, "decay_steps": 6, "final_learning_rate": 1e-6}
    branch = wsd(photographs, steps=16, branch_from=f"{whole}@10", optim=decay, log={"every": 1})
    assert pretrain(branch, str(tmp_path / "decayed")).step == 16
    logged = [line for line in lines(tmp_path / "decayed") if "lr" in line]
    assert [line["step"] for line in logged] == [11, 12, 13, 14, 15, 16]
    expected = [1e-6 + (1e-3 - 1e-6) * (1 - (done / 6) ** 0.5) for done in range(6)]
    assert [line["lr"] for line in logged] == pytest.approx(expected)
    # The same command resumes the branch itself.
    assert pretrain(branch, str(tmp_path / "decayed")).step == 16
    # More steps than the schedule has are trained at the final rate, and the log says so.
    monkeypatch.setattr(logging.getLogger("ipt_jax"), "propagate", True)
    assert "schedule ends" not in caplog.text
    assert pretrain(with_steps(branch, 17), str(tmp_path / "decayed")).step == 17
    assert (
        "schedule ends at step 16 (optim.decay_start + optim.decay_steps): the steps from 16 to 17 "
        "train at the final rate, 1e-06. To stretch the schedule, set "
        "--config.optim.decay_start=11 in a new run, or in a branch" in caplog.text
    )
    assert lines(tmp_path / "decayed")[-1]["lr"] == pytest.approx(1e-6)
    for changes, message in (
        ({"seed": 5}, r"these differ:\n  seed: 0 -> 5"),
        ({"optim": {"ema": 0.5}}, r"optim.ema: 0.9 -> 0.5"),
        ({"branch_from": f"{whole}@11"}, r"no such checkpoint; there is 10, 20"),
        ({"branch_from": f"{whole}@best"}, "'best' is not a step"),
        ({"branch_from": str(tmp_path / "none")}, "is not the folder of a run"),
    ):
        with pytest.raises(ConfigError, match=message):
            pretrain(
                wsd(photographs, **{"steps": 20, "branch_from": f"{whole}@10", **changes}),
                str(tmp_path / "refused"),
            )


def test_a_folder_with_another_run_is_refused_and_untouched(straight, photographs):
    workdir, _ = straight
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*")}
    with pytest.raises(
        ConfigError,
        match=r"another config.*\n  optim.learning_rate: 0.001 -> 0.002\n  seed: 0 -> 5",
    ):
        pretrain(config(photographs, seed=5, optim={"learning_rate": 2e-3}), str(workdir))
    assert {p: p.stat().st_mtime_ns for p in workdir.rglob("*")} == before


def test_other_data_is_refused(straight, photographs, tmp_path):
    others = tmp_path / "others"
    others.mkdir()
    for i in range(8):
        cv2.imwrite(str(others / f"{i}.png"), np.full((96, 96, 3), 20 * i, np.uint8))
    with pytest.raises(ConfigError, match="the data's fingerprint"):
        pretrain(config(others), str(straight[0]))


def test_a_moved_data_folder_is_the_same_data(straight, photographs, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in photographs.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    before = (straight[0] / "metrics.jsonl").read_text()
    again = pretrain(
        config(moved, evaluate={"every": 20, "pictures": 2, "batch": 4, "overlap": 4}),
        str(straight[0]),
    )
    assert again.finished and again.scores == straight[1].scores
    # The last evaluation was repeated, but not logged twice.
    assert (straight[0] / "metrics.jsonl").read_text() == before


def test_a_truncated_picture_is_named_replaced_and_counted(photographs, tmp_path, caplog):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for file in photographs.iterdir():
        picture = cv2.imread(str(file))
        data = cv2.imencode(".jpg", picture)[1].tobytes()
        (folder / f"{file.stem}.jpg").write_bytes(
            data[: len(data) // 2] if file.stem == "3" else data
        )
    with caplog.at_level(logging.WARNING):
        done = pretrain(
            config(folder, steps=12, data={"max_bad": 0.3, "held_out": 0}), str(tmp_path / "run")
        )
    assert done.finished
    named = [r.getMessage() for r in caplog.records if "replaced an image" in r.getMessage()]
    assert len(named) == 1 and "3.jpg" in named[0] and "truncated" in named[0]
    last = lines(tmp_path / "run")[-1]
    assert last["bad_pictures"] == 1
    with pytest.raises(RunError, match=r"more than data.max_bad=0.05 allows; the last: 3.jpg"):
        pretrain(
            config(folder, steps=12, data={"max_bad": 0.05, "held_out": 0}),
            str(tmp_path / "strict"),
        )


def test_bad_numbers_stop_the_run_with_the_last_good_checkpoint(photographs, tmp_path):
    wild = {
        "learning_rate": 1e30,
        "final_learning_rate": 1e30,
        "schedule": "constant",
        "warmup_steps": 0,
        "max_skipped": 3,
    }
    with pytest.raises(RunError, match="3 steps in a row changed nothing, up to step"):
        pretrain(config(photographs, optim=wild, checkpoint={"every": 1}), str(tmp_path))


def test_init_from_takes_another_runs_average(straight, photographs, tmp_path):
    workdir, _ = straight
    started = pretrain(
        config(
            photographs,
            steps=1,
            optim={"learning_rate": 1e-12, "final_learning_rate": 1e-12},
            init_from=str(workdir),
        ),
        str(tmp_path / "a"),
    )
    assert started.finished
    with (
        Checkpoints(workdir / "checkpoints") as old,
        Checkpoints(tmp_path / "a" / "checkpoints") as new,
    ):
        for (key, a), (_, b) in zip(
            trees.paths(old.restore_params("ema")[0]),
            trees.paths(new.restore_params("params")[0]),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-9, err_msg=key)
    with pytest.raises(
        ConfigError, match=r"holds another model:\n  model.hidden: 32 in the weights, 16 asked for$"
    ):
        pretrain(
            config(photographs, model={**small.MODEL, "hidden": 16}, init_from=str(workdir)),
            str(tmp_path / "b"),
        )
    with pytest.raises(WeightsError, match="there is no"):
        pretrain(config(photographs, init_from=str(tmp_path / "none")), str(tmp_path / "c"))


def test_eight_devices_and_one_task_a_step(photographs, tmp_path):
    done = pretrain(
        config(
            photographs, devices=8, batch_size=16, steps=6, data={"draw": "one"}, log={"every": 2}
        ),
        str(tmp_path),
    )
    assert done.finished
    with pytest.raises(ConfigError, match="batch_size=8 must be a multiple of"):
        pretrain(config(photographs, devices=8), str(tmp_path / "other"))


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"data": {"dir": "/nowhere"}}, DataError, "/nowhere"),
        ({"data": {"held_out": 8}}, DataError, "held_out"),
        ({"devices": 99, "batch_size": 396}, ConfigError, "devices=99 asked for, but there are 8"),
        (
            {"batch_size": 12, "loss": {"contrastive": "eq5", "group": 3}, "data": {"held_out": 6}},
            DataError,
            "groups of 3",
        ),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(
    changes, error, message, photographs, tmp_path
):
    base = settings(photographs)
    for key, value in changes.items():
        base[key] = {**base.get(key, {}), **value} if isinstance(value, dict) else value
    with pytest.raises(error, match=message):
        pretrain(complete(base), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_empty_and_pictureless_folders(photographs, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no picture")
    for name in ("empty", "texts"):
        with pytest.raises(DataError, match=name):
            pretrain(config(tmp_path / name), str(tmp_path / "run"))


def test_a_workdir_that_is_something_else(photographs, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        pretrain(config(photographs), str(tmp_path / "file"))
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="is not a run's config"):
        pretrain(config(photographs), str(tmp_path / "odd"))
