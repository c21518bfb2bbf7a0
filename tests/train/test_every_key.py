"""Every key of a config changes what a run is made of, from `prepare` on.

Each table below names a key, other values that the run needs for it, and the key's value; what
`prepare` makes must differ from what it makes without the value. tests/helpers/guards.py says which
keys are guarded here, and which by a run of their own.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import pathlib
import re
import shutil
import threading
import time
import types
from typing import Any

import cv2
import jax
import numpy as np
import pytest
import runs
import small
import stand_in
from data_sets import digest, jpeg, write_tfds
from training import lines, settings

import ipt_jax
from ipt_jax import trees
from ipt_jax.checkpoints.checkpoints import Checkpoints
from ipt_jax.cli import app
from ipt_jax.config.loading import complete
from ipt_jax.data import workers
from ipt_jax.data.pipeline import Batches
from ipt_jax.distributed import sharding
from ipt_jax.errors import CheckpointError, ConfigError
from ipt_jax.run_folder.best_record import best_step
from ipt_jax.run_folder.metrics_log import MetricsLog
from ipt_jax.step import optim
from ipt_jax.step.state import init_state
from ipt_jax.train import validation, watchdog
from ipt_jax.train.setup import Setup, prepare
from ipt_jax.weights.state_dict import abstract


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> pathlib.Path:
    """Two folders of eight images each, "a" and "b"."""
    folder = tmp_path_factory.mktemp("photographs")
    for i in range(16):
        image = np.random.default_rng(i).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image = cv2.resize(image, (64, 56), interpolation=cv2.INTER_CUBIC)
        (folder / "ab"[i // 8]).mkdir(exist_ok=True)
        cv2.imwrite(str(folder / "ab"[i // 8] / f"{i % 8}.png"), image)
    return folder


def made(photographs: pathlib.Path, values: dict[str, Any]) -> Setup:
    """Returns what a small run of one task is made of; nothing is written."""
    base = settings(
        photographs / "a",
        tasks=["denoise50"],
        optim={"ema": 0.0, "warmup_steps": 0},
        model={**small.MODEL, "encoder_layers": 1},
    )
    flat = {**trees.flatten(base), "loss.contrastive": "none", **values}
    return prepare(complete(stand_in.nested(flat)), str(photographs / "run"))


# A key, what its run needs besides, and its value.
BATCHES = {
    "seed": ({}, 5),
    "batch_size": ({}, 16),
    "tasks": ({}, ["denoise30"]),
    "model.tile": ({}, 32),
    "data.source": ({}, "embedded"),
    "data.dir": ({}, "b"),
    "data.held_out": ({}, 5),
    "data.draw": ({"tasks": ["denoise30", "denoise50"]}, "one"),
    "data.crops": ({}, 2),
    "data.flips": ({}, True),
    "loss.group": ({"batch_size": 16}, 4),
}


@pytest.mark.parametrize("key", BATCHES)
def test_a_key_changes_the_batches(key, photographs):
    needed, value = BATCHES[key]
    value = str(photographs / value) if key == "data.dir" else value

    def batches(**values: Any) -> list[str]:
        found = made(photographs, {**needed, **values}).batches
        return [digest(found(step).batch) for step in range(3)]

    assert batches(**{key: value}) != batches()


@pytest.mark.parametrize("key, value", [("data.name", "other"), ("data.split", "train[4:]")])
def test_a_key_chooses_a_tfds_set(key, value, photographs, tmp_path):
    for name, first in (("tiny", 0), ("other", 50)):
        write_tfds(tmp_path, [jpeg(first + i) for i in range(8)], name)
    tfds = {"data.source": "tfds", "data.dir": str(tmp_path), "data.held_out": 0}
    tfds["data.name"] = "tiny"
    found = [
        digest(made(photographs, {**tfds, **more}).batches(0).batch) for more in ({}, {key: value})
    ]
    assert found[0] != found[1]


@pytest.mark.parametrize("key, value, steps", [("epochs", 6, 18), ("data.epoch_crops", 5, 15)])
def test_a_key_changes_the_number_of_steps(key, value, steps, photographs):
    """Six images in batches of two images for each of two tasks: three steps an epoch."""
    values = {"batch_size": 4, "tasks": ["denoise30", "denoise50"], "epochs": 1}
    assert made(photographs, values).config["steps"] == 3
    assert made(photographs, {**values, key: value}).config["steps"] == steps


def test_devices_are_as_many_as_asked_for(photographs):
    assert [made(photographs, {"devices": count}).mesh.size for count in (1, 2)] == [1, 2]


# Keys of the network.
NETWORK = {
    "model.features": 8,
    "model.patch": 8,
    "model.heads": 4,
    "model.encoder_layers": 2,
    "model.decoder_layers": 2,
    "model.hidden": 64,
    "model.input_scale": 1.0,
    "model.dtype": "bfloat16",
    "model.out_bias": True,
    "model.norm_eps": 1e-7,
    "model.memory_norm": True,
}


def forward(photographs: pathlib.Path, values: dict[str, Any]) -> str:
    """Returns what the network of a run computes, as jax has traced it."""
    model = made(photographs, values).model
    batch = {"denoise50": np.zeros((2, 16, 16, 3), np.uint8)}
    return str(jax.make_jaxpr(lambda p: model.apply({"params": p}, batch))(abstract(model)))


@pytest.fixture(scope="module")
def usual_network(photographs) -> str:
    return forward(photographs, {})


@pytest.mark.parametrize("key", NETWORK)
def test_a_key_changes_the_network(key, photographs, usual_network):
    # Not `!=` in the assertion: pytest would compare the long texts line by line.
    same = forward(photographs, {key: NETWORK[key]}) == usual_network
    assert not same


# Keys of the learning rate, and what they need besides.
RATES = {
    "optim.learning_rate": ({}, 0.5),
    "optim.final_learning_rate": ({}, 1e-6),
    "optim.schedule": ({}, "constant"),
    "optim.schedule_steps": ({}, 77),
    "optim.warmup_steps": ({}, 7),
    "optim.drop_at": ({"optim.schedule": "step"}, 0.5),
    "optim.decay_start": ({"optim.schedule": "wsd", "optim.decay_steps": 4}, 20),
    "optim.decay_steps": (
        {"optim.schedule": "wsd", "optim.decay_start": 20, "optim.decay_steps": 4},
        5,
    ),
}


@pytest.mark.parametrize("key", RATES)
def test_a_key_changes_the_learning_rate(key, photographs):
    needed, value = RATES[key]

    def rates(values: dict[str, Any]) -> list[float]:
        rate = optim.schedule(made(photographs, values).config["optim"])
        return [float(rate(step)) for step in (0, 3, 22, 24, 33)]

    assert rates({**needed, key: value}) != rates(needed)


# Keys of the step, and what they need besides. The learning rate stands for its schedule.
STEP = {
    "sharding": ({"devices": 2, "model.features": 64, "model.hidden": 256}, "fsdp"),
    "model.remat": ({}, "layer"),
    "loss.contrastive": ({}, "eq5"),
    "loss.weight": ({"loss.contrastive": "eq5"}, 0.5),
    "loss.temperature": ({"loss.contrastive": "supcon"}, 0.5),
    "optim.learning_rate": ({}, 0.5),
    "optim.clip_norm": ({}, 1.0),
    "optim.ema": ({}, 0.9),
    "optim.accumulate": ({}, 2),
    "optim.max_spike": ({}, 3.0),
    "finetune.freeze": ({}, ["body"]),
    "finetune.lora_rank": ({}, 2),
    "finetune.lora_alpha": ({"finetune.lora_rank": 2}, 3.0),
    "finetune.lora_targets": ({"finetune.lora_rank": 2}, ["mlp"]),
}


def program(setup: Setup) -> str:
    """Returns the program of the step that a run compiles."""
    state = jax.eval_shape(lambda: init_state(setup.model.init_params(0), setup.config))
    batch = sharding.put_batch(setup.batches(0).batch, setup.mesh)
    return str(setup.train_step.lower(state, batch).as_text())


@pytest.fixture(scope="module")
def usual_program(photographs):
    """Returns a function that gives the program with some values, made once."""

    @functools.cache
    def find(values: str) -> str:
        return program(made(photographs, json.loads(values)))

    return lambda values: find(json.dumps(values))


@pytest.mark.parametrize("key", STEP)
def test_a_key_changes_the_step(key, photographs, usual_program):
    needed, value = STEP[key]
    changed = program(made(photographs, {**needed, key: value}))
    # Not `!=` in the assertion: pytest would compare the long texts line by line.
    same = changed == usual_program(needed)
    assert not same


def test_a_kernel_that_cannot_run_here_is_refused(photographs):
    with pytest.raises(ConfigError, match=r"model.attention=fused needs devices of kind tpu"):
        made(photographs, {"model.attention": "fused"})


def test_the_start_of_the_network_is_the_one_that_is_named(photographs):
    """Of the start, not of the step: the programs that draw the parameters differ."""
    models = [made(photographs, {"model.start": start}).model for start in ("identity", "torch")]
    programs = [jax.jit(model.init_params).lower(0).as_text() for model in models]
    same = programs[0] == programs[1]
    assert not same


@pytest.fixture
def step(monkeypatch):
    """Runs of this test do not train; see tests/helpers/stand_in.py."""
    stand_in.replace_step(monkeypatch)


def steps_kept(workdir: pathlib.Path) -> list[int]:
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return checkpoints.steps()


def test_how_long_a_run_is_and_what_it_logs(photographs, tmp_path, monkeypatch):
    def note(number: int) -> None:
        assert number <= 4

    stand_in.replace_step(monkeypatch, note)
    changes = {"steps": 4, "checkpoint.every": 2, "checkpoint.keep": 9}
    changes |= {"log.every": 2, "log.tensorboard": False}
    assert stand_in.run(photographs / "a", tmp_path / "run", **changes) == 0
    assert steps_kept(tmp_path / "run") == [2, 4]
    assert [line["step"] for line in lines(tmp_path / "run")] == [2, 4]
    assert not (tmp_path / "run" / "tensorboard").exists()


@pytest.mark.usefixtures("step")
def test_which_checkpoints_are_kept(photographs, tmp_path):
    changes = {"checkpoint.every": 1, "checkpoint.keep": 1, "checkpoint.keep_every": 3}
    assert stand_in.run(photographs / "a", tmp_path / "run", **changes) == 0
    assert steps_kept(tmp_path / "run") == [3, 6]


@pytest.mark.usefixtures("step")
def test_when_a_run_is_evaluated_and_stops_early(photographs, tmp_path, monkeypatch):
    """No score is better than the first."""
    evaluated: list[int] = []
    stand_in.replace_scores(monkeypatch, evaluated)
    changes = {"evaluate.every": 2, "evaluate.best": "psnr_y", "evaluate.patience": 1}
    assert stand_in.run(photographs / "a", tmp_path / "run", **changes) == 0
    assert evaluated == [2, 4]
    assert best_step(tmp_path / "run") == 2


@pytest.mark.usefixtures("step")
def test_the_time_after_which_the_stacks_are_written(photographs, tmp_path, monkeypatch):
    """Python writes them; test_reliability.py shows that in a process whose storage stalls."""
    seconds: list[float] = []

    def note(limit: float, **options: object) -> None:
        seconds.append(limit)

    monkeypatch.setattr(watchdog.faulthandler, "dump_traceback_later", note)
    changes = {"steps": 1, "log.stacks_after": 7.0}
    assert stand_in.run(photographs / "a", tmp_path / "run", **changes) == 0
    assert set(seconds) == {7.0}


def test_steps_without_effect_end_the_run(photographs, tmp_path, monkeypatch, capsys):
    stand_in.replace_step(monkeypatch, lambda number: {"skipped_in_a_row": float(number)})
    changes = {"optim.max_skipped": 2}
    assert stand_in.run(photographs / "a", tmp_path / "run", **changes) == 1
    assert "2 steps in a row changed nothing, up to step 2" in capsys.readouterr().err


@pytest.mark.usefixtures("step")
def test_images_that_cannot_be_read_end_the_run(photographs, tmp_path, capsys):
    """One of eight is damaged, which is less than the default allows."""
    folder = shutil.copytree(photographs / "a", tmp_path / "images")
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:500])
    changes = {"data.held_out": 0, "data.max_bad": 0.05}
    assert stand_in.run(folder, tmp_path / "run", **changes) == 1
    assert "more than data.max_bad=0.05 allows; the last: 3.png" in capsys.readouterr().err


@pytest.mark.usefixtures("step")
def test_saves_that_fail_end_the_run(photographs, tmp_path, monkeypatch, capsys):
    save = Checkpoints.save

    def fail(self, step, state, meta):
        if step:
            raise CheckpointError("the disk is full")
        save(self, step, state, meta)

    monkeypatch.setattr(Checkpoints, "save", fail)
    changes = {"checkpoint.every": 1, "checkpoint.max_failed": 2}
    assert stand_in.run(photographs / "a", tmp_path / "run", **changes) == 1
    assert "2 saves in a row failed (checkpoint.max_failed=2)" in capsys.readouterr().err


@pytest.mark.parametrize("key, value", [("data.threads", 4), ("data.prefetch", 9)])
def test_a_key_changes_how_batches_are_made_ahead(key, value, photographs, tmp_path, monkeypatch):
    """Before the first step, as many batches are made as threads have room for."""
    made_by: list[int] = []
    counts: list[int] = []
    make = Batches.__call__

    def noted(self, number):
        made_by.append(threading.get_ident())
        time.sleep(0.02)
        return make(self, number)

    def wait(number: int) -> None:
        """Waits until no further batch is made."""
        while number == 1 and (not counts or counts[-1] != len(made_by)):
            counts.append(len(made_by))
            time.sleep(0.4)

    monkeypatch.setattr(Batches, "__call__", noted)
    stand_in.replace_step(monkeypatch, wait)
    changes = {"data.threads": 1, "data.prefetch": 1, "steps": 30} | {key: value}
    assert stand_in.run(photographs / "a", tmp_path / "run", **changes) == 0
    assert len(set(made_by)) == changes["data.threads"]
    assert value <= counts[-1] <= value + 2


def test_worker_processes_make_the_batches(photographs, tmp_path, monkeypatch):
    children: list[int] = []
    stand_in.replace_step(
        monkeypatch, lambda number: children.append(len(multiprocessing.active_children()))
    )
    changes = {"data.workers": 1, "steps": 1}
    assert stand_in.run(photographs / "a", tmp_path / "run", **changes) == 0
    assert children == [1]


@pytest.mark.usefixtures("step")
def test_data_that_do_not_come_end_the_run(photographs, tmp_path, monkeypatch, capsys):
    end, make = threading.Event(), Batches.__call__

    def make_late(self, number):
        end.wait(3)
        return make(self, number)

    monkeypatch.setattr(Batches, "__call__", make_late)
    monkeypatch.setattr(workers, "ABANDONED", 0.01)
    # Else the program would end the process because of the thread that hangs.
    monkeypatch.setattr(app, "threads_hang", lambda program: False)
    try:
        changes = {"steps": 1, "data.stalled": 0.2}
        assert stand_in.run(photographs / "a", tmp_path / "run", **changes) == 1
    finally:
        end.set()
    assert "(data.stalled): data.dir=" in capsys.readouterr().err


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> pathlib.Path:
    """A run with random parameters."""
    folder = tmp_path_factory.mktemp("weights") / "run"
    runs.make_run(folder, tasks=("denoise50",))
    return folder


@pytest.mark.usefixtures("step")
def test_a_run_starts_from_weights(weights, photographs, tmp_path):
    """The stand-in step leaves the parameters as they were; a new task takes those of another."""
    changes = {"init_from": str(weights), "steps": 1, "finetune.new": "denoise50"}
    changes |= {"tasks": ["denoise50", "denoise30"]}
    assert stand_in.run(photographs / "a", tmp_path / "run", **changes) == 0
    found = dict(trees.paths(ipt_jax.load(tmp_path / "run").params))
    for name, array in trees.paths(ipt_jax.load(weights).params):
        assert np.array_equal(found[name], array), name
        copied = name.replace("denoise50", "denoise30")
        assert np.array_equal(found[copied], array), copied


@pytest.mark.usefixtures("step")
def test_a_branch_continues_after_the_step_that_is_named(photographs, tmp_path):
    changes = {"checkpoint.every": 2, "checkpoint.keep": 9, "log.every": 1}
    assert stand_in.run(photographs / "a", tmp_path / "a", **changes) == 0
    changes["branch_from"] = f"{tmp_path / 'a'}@4"
    assert stand_in.run(photographs / "a", tmp_path / "b", **changes) == 0
    assert [line["step"] for line in lines(tmp_path / "b")] == [5, 6]


# A key of an evaluation, its value, and the numbers of images, of tiles, and of tiles in a call.
EVALUATED = {
    "evaluate.pictures": (2, (2, 2 * 25, 1)),
    "evaluate.size": (32, (4, 4 * 9, 1)),
    # The last call is filled up.
    "evaluate.batch": (3, (4, 34 * 3, 3)),
    "evaluate.overlap": (8, (4, 4 * 42, 1)),
}


@pytest.mark.parametrize("key", EVALUATED)
def test_a_key_changes_the_evaluation(key, photographs, tmp_path, monkeypatch, capsys):
    """Images of 64 x 56 pixels, tiles of 16, a network that copies them."""
    calls: list[int] = []

    class Network:
        def __init__(self, model, mesh):
            pass

        def bind(self, params, task):
            def apply(tiles):
                calls.append(len(tiles))
                return jax.numpy.asarray(tiles)

            return apply

    monkeypatch.setattr(validation, "CompiledNetwork", Network)
    changes = {"data.held_out": 5, "evaluate.every": 1, "evaluate.overlap": 4, "evaluate.batch": 1}
    setup = made(photographs, changes | {key: EVALUATED[key][0]})
    weights = {"body": {}, "task_denoise50": {}}
    log = MetricsLog(setup.folder, 0, False, False, False)
    setup.validator(types.SimpleNamespace(params=weights, ema=weights), 1, log)
    log.close()
    images = int(re.search(r"(\d+) held-out image", capsys.readouterr().out)[1])
    assert (images, sum(calls), max(calls)) == EVALUATED[key][1]
