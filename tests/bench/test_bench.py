"""The formula for FLOPs, and the benchmark commands."""

from __future__ import annotations

import json

import golden
import jax
import jax.numpy as jnp
import pytest
import runs

from ipt_jax.cli.app import main
from ipt_jax.model import IPT, flops

# G multiply-adds of a tile with the smallest and the largest tail: the paper says 33 G.
PAPER = {"denoise30": 33.0, "sr4": 34.7}


@pytest.mark.parametrize("task", PAPER)
def test_multiply_adds_of_the_papers_model(task):
    assert flops.multiply_adds(IPT(golden.SCALES), task) == pytest.approx(
        PAPER[task] * 1e9, rel=5e-3
    )


def test_training_cost_of_the_papers_model():
    model = IPT(golden.SCALES)
    assert flops.step(model, model.names, 1) == pytest.approx(200.7e9, rel=5e-3)


@pytest.mark.parametrize("task", ["sr2", "sr4", "denoise30"])
def test_the_formula_is_the_compilers_count_on_an_unrolled_model(task):
    """With one layer in each stack nothing is hidden in a loop. What is left over is element-wise
    work.
    """
    model = IPT(golden.SCALES, encoder_layers=1, decoder_layers=1)
    params = jax.eval_shape(lambda: model.init_params(0))
    tile = jax.ShapeDtypeStruct((2, 48, 48, 3), jnp.float32)
    counted = (
        jax.jit(lambda p, x: model.apply({"params": p}, {task: x}))
        .lower(params, tile)
        .cost_analysis()["flops"]
    )
    assert counted == pytest.approx(flops.forward(model, (task,), 2), rel=0.03)


@pytest.mark.parametrize("task", ["sr2", "sr4", "denoise30"])
def test_the_formula_of_a_training_step_is_the_compilers_count(task):
    """The backward pass costs two forward ones, less the first convolution's gradient by the
    picture.
    """
    model = IPT(golden.SCALES, encoder_layers=1, decoder_layers=1)
    params = jax.eval_shape(lambda: model.init_params(0))
    tile = jax.ShapeDtypeStruct((2, 48, 48, 3), jnp.float32)
    loss = lambda p, x: jnp.mean(jnp.abs(model.apply({"params": p}, {task: x})[0][task]))  # noqa: E731
    counted = jax.jit(jax.grad(loss)).lower(params, tile).cost_analysis()["flops"]
    assert counted == pytest.approx(flops.step(model, (task,), 2), rel=0.03)


@pytest.mark.parametrize("what", ["step", "forward"])
def test_bench_prints_one_json_object_last(what, capsys, tmp_path):
    keys = {"features": 4, "patch": 4, "hidden": 32, "heads": 2, "tile": 16}
    small = [f"--config.model.{key}={value}" for key, value in keys.items()]
    small += ["--config.evaluate.overlap=4", "--config.tasks=sr2,denoise50", "--config.devices=2"]
    code = main(
        [
            "bench",
            what,
            "--config=configs/demo.py",
            "--batch=16",
            "--calls=2",
            f"--json={tmp_path / 'a.json'}",
            *small,
        ]
    )
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert code == 0 and found == json.loads((tmp_path / "a.json").read_text())
    assert found["devices"] == 2 and found["batch"] == 16 and found["tasks"] == 2
    assert found["samples_per_s"] == pytest.approx(16 / found["seconds"])
    assert found["share_of_product"] > 0 and found["compile_s"] > 0


def test_a_batch_that_does_not_divide_is_refused(capsys):
    assert main(["bench", "step", "--config=configs/demo.py", "--batch=25"]) == 2
    assert "batch_size=25 must be a multiple of" in capsys.readouterr().err


def test_bench_restore_counts_tiles_and_pixels(capsys, tmp_path):
    runs.make_run(tmp_path / "run")
    words = [
        "--weights",
        str(tmp_path / "run"),
        "--task",
        "denoise50,sr2",
        "--size",
        "60x40",
        "--calls",
        "2",
        "--batch",
        "1",
    ]
    assert (
        main(["bench", "restore", *words, "--overlap", "4", f"--json={tmp_path / 'a.json'}"]) == 0
    )
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert found == json.loads((tmp_path / "a.json").read_text())
    assert (
        found["tiles"] == 2 * 5 * 3
        and found["tasks"] == "denoise50,sr2"
        and found["batch"] == found["devices"]
    )
    assert found["tiles_per_s"] == pytest.approx(found["tiles"] / found["seconds"])
    assert (
        found["megapixels_per_s"] == pytest.approx(60 * 40 / 1e6 / found["seconds"])
        and found["network_tiles_per_s"] > 0
    )
    for wrong, message in (("60", "WIDTHxHEIGHT"), ("0x9", "WIDTHxHEIGHT")):
        assert main(["bench", "restore", "--weights", str(tmp_path / "run"), "--size", wrong]) == 2
        assert message in capsys.readouterr().err
    assert main(["bench", "restore", "--weights", str(tmp_path / "run"), "--task", "sr3"]) == 2
    assert "no task 'sr3'" in capsys.readouterr().err
