"""The networks that the studies compare, and how the studies compare them."""

from __future__ import annotations

import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from ipt_jax import load
from ipt_jax.data.sources.embedded import embedded
from ipt_jax.errors import WeightsError
from ipt_jax.model import build, preset
from ipt_jax.restore.restorer import Restorer
from ipt_jax.tasks import TASKS
from ipt_jax.weights.authors import write_authors_file
from ipt_jax.weights.folder import write_weights_folder
from studies import curves, pretraining, study

PARTS = {
    "no decoder": dict(decoder_layers=0),
    "no encoder": dict(encoder_layers=0),
    "no body": dict(encoder_layers=0, decoder_layers=0),
    "LayerNorm on the memory": dict(memory_norm=True),
}


@pytest.mark.parametrize("part", PARTS)
def test_networks_of_the_studies(part, tmp_path):
    """Every parameter of a changed network is trained and kept by a weights folder.

    The authors' format has no place for them, so writing it fails.
    """
    tasks = [TASKS["sr2"], TASKS["denoise50"]]
    model = build({**preset("tiny"), **small.MODEL, **PARTS[part]}, tasks)
    lq = {
        task.name: np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype(np.float32)
        for task in tasks
    }
    params = model.init_params(0)

    def loss(params):
        outputs, _ = model.apply({"params": params}, lq)
        return sum(jnp.mean(jnp.abs(outputs[name])) for name in outputs), outputs

    (_, outputs), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    silent = {
        jax.tree_util.keystr(path)
        for path, g in jax.tree_util.tree_leaves_with_path(grads)
        if not np.any(g)
    }
    assert silent == (
        {f"['task_{t.name}']['embedding']" for t in tasks} if model.decoder_layers == 0 else set()
    )
    assert ("norm_memory" in grads["body"].get("decoder", {})) == model.memory_norm

    restorer = Restorer(model, params, {task.name: task for task in tasks}, {})
    write_weights_folder(restorer, tmp_path / "weights")
    again = load(tmp_path / "weights")
    assert again.model.memory_norm == model.memory_norm
    same, _ = jax.jit(lambda p, x: again.model.apply({"params": p}, x))(again.params, lq)
    for name in outputs:
        # Outputs are in 0..255.
        np.testing.assert_allclose(same[name], outputs[name], rtol=1e-5, atol=1e-3)
    with pytest.raises(WeightsError, match="the authors' code has no network"):
        write_authors_file(restorer, tmp_path / "x.safetensors", "safetensors")


def result(variant: str, *scores: float, seed: int = 0, tasks: str = "ab") -> study.Result:
    return study.Result(variant, seed, (), dict(zip(tasks, scores, strict=True)), {})


def test_only_variants_that_are_near_another_on_the_same_tasks_are_trained_again():
    results = [
        result("a", 30.0, 20.0),
        result("b", 30.4, 20.4),
        result("c", 30.05, 20.05),
        result("other", 25.0, tasks="a"),
    ]
    assert study.find_close(results) == {"a", "c"}
    assert study.find_close(results[:2]) == set()


def test_the_table_has_means_and_half_the_spread_over_seeds():
    text = study.format_table(
        [result("a", 30.0, 20.0), result("a", 30.2, 20.4, seed=1), result("alone", 31.5, tasks="a")]
    )
    assert text.splitlines()[0] == "| PSNR-Y, dB | a | b | mean | seeds |"
    assert text.splitlines()[2:] == [
        "| a | 30.10 | 20.20 | 25.15 +- 0.15 | 2 |",
        "| alone | 31.50 |  | 31.50 | 1 |",
    ]


def test_curves_of_two_logs(tmp_path, capsys):
    for name, factor in (("a", 1.0), ("b", 2.0)):
        lines = [
            {"step": step, "loss": 9.0, "l1/sr2": factor * 100 / step, "l1/derain": None}
            for step in range(10, 110, 10)
        ]
        lines.append({"step": 100, "sr2/psnr_y": 30.0})
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "c.png"
    assert curves.main([f"first={tmp_path / 'a'}", f"second={tmp_path / 'b'}", "-o", str(out)]) == 0
    assert out.stat().st_size > 5_000
    mean = (100 / 90 + 100 / 100) / 2
    assert capsys.readouterr().out.splitlines() == [
        f"first: {mean:.3f} over the last fifth of the first 100 steps",
        f"second: {2 * mean:.3f} over the last fifth of the first 100 steps",
    ]
    (tmp_path / "empty").write_text("")
    assert curves.main([f"x={tmp_path / 'empty'}", "-o", str(out)]) == 2
    assert "no line has losses" in capsys.readouterr().err


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_study_trains_scores_draws_and_does_not_repeat_itself(tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    photos = tmp_path / "photos/linked"
    photos.parent.mkdir()
    photos.symlink_to(tmp_path / "elsewhere")
    for i, picture in enumerate(embedded("all") * 3):
        cv2.imwrite(
            str(photos / f"{i}.png"), picture[20 * (i // 4) :][:160, 20 * (i // 4) :][:, :160, ::-1]
        )
    arguments = ["--photos", str(photos.parent), "--out", str(tmp_path / "out"), "--steps", "20"]
    assert study.main(pretraining.STUDY, [*arguments, "--seeds", "0"]) == 0
    first = (tmp_path / "out/pretraining.json").read_text()
    assert len(list((tmp_path / "out/runs").iterdir())) == 5
    assert (tmp_path / "out/pretraining.png").stat().st_size > 10_000
    assert study.main(pretraining.STUDY, [*arguments, "--seeds", "0"]) == 0
    assert (tmp_path / "out/pretraining.json").read_text() == first
    assert str(tmp_path) not in first
