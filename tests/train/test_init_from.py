"""Fine-tuning: loaded, new and dropped parameters; runs from other weights; early stopping."""

from __future__ import annotations

import json
import logging
import pathlib

import cv2
import jax
import numpy as np
import pytest
import runs
import small
from training import arrays, write_config

import ipt_jax
from ipt_jax import trees
from ipt_jax.checkpoints.checkpoints import Checkpoints
from ipt_jax.cli import app as cli
from ipt_jax.cli.train import finetune_config
from ipt_jax.config import loading as configs
from ipt_jax.config.loading import complete
from ipt_jax.errors import ConfigError, WeightsError
from ipt_jax.model import build
from ipt_jax.run_folder.best_record import best_step
from ipt_jax.tasks import PAPER_TASKS, make_tasks
from ipt_jax.train import init_from, validation
from ipt_jax.train.loop import pretrain

JPEG = {"name": "jpeg10", "degradation": "jpeg", "quality": 10}
FINETUNE = sorted(
    file.stem for file in configs.find("configs/demo.py").parent.glob("finetune_*.py")
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> pathlib.Path:
    """The folder of a run with sr2 and denoise50 and random parameters."""
    folder = tmp_path_factory.mktemp("weights")
    runs.make_run(folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("photographs")
    for i in range(6):
        image = np.random.default_rng(i).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        cv2.imwrite(
            str(folder / f"{i}.png"), cv2.resize(image, (64, 56), interpolation=cv2.INTER_CUBIC)
        )
    return folder


def changes(folder: pathlib.Path, **more) -> dict:
    base = {
        "model": small.MODEL,
        "optim": {**small.OPTIM, "warmup_steps": 0},
        "tasks": ["denoise50"],
        "batch_size": 8,
        "steps": 6,
        "devices": 1,
        "data": {"source": "folder", "dir": str(folder), "held_out": 2},
        "checkpoint": {"every": 3, "keep": 1},
        "evaluate": {"every": 0, "pictures": 1, "batch": 4, "overlap": 4, "size": 32},
        "log": {"every": 2, "tensorboard": False},
    }
    for key, value in more.items():
        base[key] = {**base[key], **value} if isinstance(value, dict) and key in base else value
    return base


def assemble(weights, tasks, new="identity"):
    plain = small.config(f"finetune.new={new}", tasks=tasks, batch_size=16 * len(tasks))
    found = ipt_jax.load(str(weights))
    return found, *init_from.assemble(found, small.model(plain), plain)


def test_what_is_loaded_new_and_dropped(weights):
    found, params, lines = assemble(weights, ["denoise50", JPEG])
    assert [(line.part, line.fate) for line in lines] == [
        ("body", "loaded"),
        *((f"task_denoise50/{part}", "loaded") for part in init_from.PARTS),
        *((f"task_jpeg10/{part}", "new (identity start)") for part in init_from.PARTS),
        ("task_sr2", "dropped: not among the tasks"),
    ]
    assert params.keys() == {"body", "task_denoise50", "task_jpeg10"}
    for group in ("body", "task_denoise50"):
        assert all(
            jax.tree.leaves(jax.tree.map(np.array_equal, params[group], found.params[group]))
        )
    kept = sum(line.count for line in lines if not line.fate.startswith("dropped"))
    assert kept == init_from.count(params)
    text = init_from.table(lines)
    assert "dropped" in text and len(text.splitlines()) == len(lines)


def test_new_ends_are_copied_or_started_by_name(weights):
    found, params, lines = assemble(
        weights,
        [JPEG, {"name": "x2", "degradation": "bicubic", "scale": 2}],
        "jpeg10=denoise50,x2=sr2",
    )
    for name, origin in (("jpeg10", "denoise50"), ("x2", "sr2")):
        assert all(
            jax.tree.leaves(
                jax.tree.map(np.array_equal, params[f"task_{name}"], found.params[f"task_{origin}"])
            )
        )
    assert {line.fate for line in lines if "jpeg10" in line.part} == {"copied from denoise50"}
    # With another scale, everything but the tail is copied, and the source keeps its own.
    before = ipt_jax.load(str(weights)).params
    found, params, lines = assemble(weights, [JPEG], "sr2")
    jax.tree.map(np.testing.assert_array_equal, found.params, before)
    assert "up0" in found.params["task_sr2"]["tail"] and "up0" not in params["task_jpeg10"]["tail"]
    fates = {line.part: line.fate for line in lines}
    assert (
        fates["task_jpeg10/head"] == "copied from sr2"
        and "new (identity start): sr2 is x2, not x1" in fates["task_jpeg10/tail"]
    )


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (
            "idntity",
            r"finetune.new: unknown 'idntity' .did you mean 'identity'.*known: torch, identity, "
            r"sr2, denoise50",
        ),
        ("jpg10=sr2", r"'jpg10' is not a new task .did you mean 'jpeg10'"),
        ("", "has no rule for jpeg10"),
    ],
)
def test_rules_that_do_not_fit_are_named(weights, new, message):
    with pytest.raises(ConfigError, match=message):
        assemble(weights, [JPEG], new)


def test_geometry_is_the_weights_and_what_differs_is_listed(weights, photographs, tmp_path):
    values = changes(photographs)
    del values["model"]
    file = str(write_config(tmp_path / "c.py", values))
    config = finetune_config(file, [f"init_from={weights}"], str(tmp_path / "a"))
    assert (
        config.model.features == 4 and config.model.tile == 16 and config.model.input_scale == 127.5
    )
    with pytest.raises(ConfigError, match=r"init_from is empty.*ipt pretrain"):
        finetune_config(file, [], str(tmp_path / "a"))
    with pytest.raises(WeightsError, match=r"there is no"):
        finetune_config(file, [f"init_from={tmp_path}/none"], str(tmp_path / "a"))
    config = finetune_config(
        file, [f"init_from={weights}", "model.hidden=64", "model.features=8"], str(tmp_path / "a")
    )
    with pytest.raises(
        ConfigError,
        match=r"another model:\n  model.features: 4 in the weights, 8 asked for\n  model.hidden: ",
    ):
        pretrain(config, str(tmp_path / "a"))
    with pytest.raises(ValueError, match=r"matches no parameter"):
        pretrain(
            finetune_config(
                file, [f"init_from={weights}", "finetune.freeze=bdy"], str(tmp_path / "b")
            ),
            str(tmp_path / "b"),
        )


@pytest.mark.slow
def test_a_new_task_by_config_alone_trains_resumes_evaluates_and_exports(
    weights, photographs, tmp_path, capsys, caplog, monkeypatch
):
    """Adapters, a frozen head and an EMA are on, so a resumed run has to restore all of them."""
    monkeypatch.setattr(logging.getLogger("ipt_jax"), "propagate", True)
    values = changes(
        photographs,
        tasks=[JPEG],
        init_from=str(weights),
        optim={"ema": 0.9, "learning_rate": 0.01},
        finetune={"new": "denoise50", "lora_rank": 2, "freeze": ["*/head"]},
    )
    with caplog.at_level(logging.INFO, "ipt_jax"):
        straight = pretrain(complete(values), str(tmp_path / "straight"))
    assert (
        straight.finished
        and "copied from denoise50" in caplog.text
        and "of them trained (" in caplog.text
    )
    assert (
        pretrain(
            complete({**values, "steps": 4, "optim": {**values["optim"], "schedule_steps": 20}}),
            str(tmp_path / "two"),
        ).step
        == 4
    )
    assert pretrain(complete(values), str(tmp_path / "two")).step == 6
    a, b = arrays(tmp_path / "straight", 6), arrays(tmp_path / "two", 6)
    assert a.keys() == b.keys() and any(key.startswith("moments/lora") for key in a)
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)
    assert (tmp_path / "straight/curves.png").stat().st_size > 10_000

    model = ipt_jax.load(str(tmp_path / "straight"))
    # The adapters are merged.
    assert set(model.params) == {"body", "task_jpeg10"}
    for path, leaf in trees.paths(ipt_jax.load(str(weights)).params["task_denoise50"]["head"]):
        np.testing.assert_array_equal(
            leaf, dict(trees.paths(model.params["task_jpeg10"]["head"]))[path]
        )
    out = tmp_path / "folder"
    assert (
        cli.main(
            [
                "export",
                "--weights",
                str(tmp_path / "straight"),
                "--format",
                "folder",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    again = ipt_jax.load(str(out))
    assert again.tasks["jpeg10"].degrade == model.tasks["jpeg10"].degrade
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    np.testing.assert_array_equal(again.restore(image, overlap=4), model.restore(image, overlap=4))
    arguments = [
        "evaluate",
        "--weights",
        str(out),
        "--data",
        str(photographs),
        "--tasks",
        "jpeg10",
        "--overlap",
        "4",
        "--batch",
        "4",
    ]
    assert cli.main([*arguments, "--limit", "1", "--json", str(tmp_path / "s.json")]) == 0
    row = json.loads((tmp_path / "s.json").read_text())["rows"][0]
    assert row["task"] == "jpeg10" and 15 < row["input"]["psnr_y"] < 45
    exported = tmp_path / "jpeg.safetensors"
    assert (
        cli.main(
            ["export", "--weights", str(out), "--format", "safetensors", "--out", str(exported)]
        )
        == 0
    )
    back = ipt_jax.load(str(exported), heads=2)
    np.testing.assert_allclose(
        back.restore(image.astype(np.float32), overlap=4),
        model.restore(image.astype(np.float32), overlap=4),
        atol=0.05,
    )


def test_the_best_checkpoint_is_kept_and_no_better_one_stops_the_run(
    weights, photographs, tmp_path, monkeypatch
):
    """Fixed scores replace the evaluations; everything else is a normal run."""
    given = iter([20.0, 22.0, 21.0, 21.5, 30.0, 30.0])
    monkeypatch.setattr(
        validation.Validator,
        "__call__",
        lambda self, state, step, log: {"denoise50": {"psnr_y": next(given)}},
    )
    values = changes(
        photographs,
        init_from=str(weights),
        steps=20,
        checkpoint={"every": 3, "keep": 1},
        evaluate={"every": 2, "best": "psnr_y", "patience": 2},
    )
    outcome = pretrain(complete(values), str(tmp_path))
    assert (outcome.step, outcome.finished) == (8, True)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        # The best checkpoint and the last one are kept.
        assert checkpoints.steps() == [4, 8]
    assert best_step(tmp_path) == 4
    assert ipt_jax.load(f"{tmp_path}@best").provenance["step"] == 4
    # Nothing is left to train.
    again = pretrain(complete(values), str(tmp_path))
    assert (again.step, again.finished) == (8, True) and next(given) == 30.0
    with pytest.raises(WeightsError, match=r"keeps no best checkpoint"):
        ipt_jax.load(f"{weights}@best")


@pytest.mark.parametrize("name", FINETUNE)
def test_shipped_configs_are_the_papers_recipe(name):
    config = configs.load(f"configs/{name}.py")
    assert (config.epochs, config.optim.learning_rate, config.optim.schedule) == (
        30,
        2e-5,
        "constant",
    )
    assert len(config.tasks) == 1 and config.evaluate.best == "psnr_y"
    task = make_tasks(config.tasks)[0]
    assert f"finetune_{task.name}" == name
    assert configs.load(f"configs/{name}.py:tiny").model.features == 16
    file = configs.find(f"configs/{name}.py").read_text()
    assert (
        f"ipt finetune --config=configs/{name}.py" in file and "--config.init_from=WEIGHTS" in file
    )


def test_all_of_the_papers_tasks_have_a_config():
    assert {name.removeprefix("finetune_") for name in FINETUNE} == {*PAPER_TASKS, "deblur"}


@pytest.mark.slow
def test_deblurring_in_another_geometry_end_to_end(photographs, tmp_path):
    """A run with tiles of 32 and patches of 8 on synthetic blur, one on pairs, then restoring."""
    model = {**small.MODEL, "patch": 8, "tile": 32, "heads": 4}
    blur = configs.load("configs/pretrain_deblur.py").tasks[0]
    first = changes(photographs, model=model, tasks=[dict(blur)], steps=2)
    pretrain(complete(first), str(tmp_path / "pre"))
    from tests.data.sources.test_pairs import make_pairs

    make_pairs(tmp_path / "gopro" / "scene1", 5, names=("blur", "sharp"))
    overrides = [
        f"init_from={tmp_path / 'pre'}",
        f"data.dir={tmp_path / 'gopro'}",
        "epochs=0",
        "steps=2",
        "batch_size=4",
        "data.held_out=1",
        "evaluate.every=2",
        "evaluate.overlap=8",
        "evaluate.batch=2",
        "devices=1",
    ]
    config = finetune_config("configs/finetune_deblur.py", overrides, str(tmp_path / "fine"))
    assert (config.model.patch, config.model.tile) == (8, 32)
    outcome = pretrain(config, str(tmp_path / "fine"))
    assert outcome.finished and np.isfinite(outcome.scores["deblur"]["psnr_y"])
    tuned = ipt_jax.load(f"{tmp_path / 'fine'}@best")
    assert tuned.task().name == "deblur"
    out = tuned.restore(
        np.random.default_rng(0).integers(0, 256, (45, 70, 3), dtype=np.uint8), overlap=8
    )
    assert out.shape == (45, 70, 3) and out.dtype == np.uint8


def test_the_papers_deblurring_geometry():
    config = configs.load("configs/pretrain_deblur.py")
    network = build(config.model.to_dict(), make_tasks(config.tasks))
    assert (network.tile, network.patch, network.features, network.tokens, network.width) == (
        256,
        8,
        9,
        1024,
        576,
    )
