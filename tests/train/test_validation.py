"""The order of an evaluation's calls, which several processes must share."""

from __future__ import annotations

import time
import types

import jax.numpy as jnp
import pytest
from training import config, make_photographs

from ipt_jax.config.resolve import resolve
from ipt_jax.distributed import devices
from ipt_jax.evaluate import scoring
from ipt_jax.model import build
from ipt_jax.run_folder.metrics_log import MetricsLog
from ipt_jax.tasks import make_tasks
from ipt_jax.train import validation

pytest.importorskip("skimage", reason="needs scikit-image's photographs")


@pytest.mark.parametrize("batch", [1, 4])
def test_questions_and_calls_come_in_one_order_however_long_scoring_takes(
    tmp_path, monkeypatch, batch
):
    """A question is a barrier and a call a collective: another order in one process is a hang."""
    evaluate = {"every": 2, "pictures": 2, "batch": batch, "overlap": 4}
    settings = resolve(config(make_photographs(tmp_path), evaluate=evaluate))
    events: list[str] = []

    class Network:
        """Stands for the network; notes its calls."""

        def __init__(self, model, mesh):
            pass

        def bind(self, params, task):
            scale = 2 if task == "sr2" else 1

            def apply(tiles):
                events.append("call")
                count, side = tiles.shape[:2]
                return jnp.zeros((count, scale * side, scale * side, 3))

            return apply

    def ask(where: str) -> bool:
        events.append(where)
        return False

    monkeypatch.setattr(validation, "CompiledNetwork", Network)
    tasks, mesh = make_tasks(settings["tasks"]), devices.make_mesh(1)
    model = build(settings["model"], tasks)
    score_image = scoring.score_image

    weights: dict[str, dict] = {"body": {}, "task_sr2": {}, "task_denoise50": {}}
    state = types.SimpleNamespace(params=weights, ema=weights)
    orders = []
    for delay in (0.0, 0.3):

        def slow(*args, delay=delay):
            time.sleep(delay)
            return score_image(*args)

        monkeypatch.setattr(scoring, "score_image", slow)
        events.clear()
        validator = validation.Validator(model, tasks, settings, mesh, tmp_path)
        log = MetricsLog(tmp_path / f"log{delay}", 0, False, False, False)
        scores = validator(state, 2, log, ask)
        log.close()
        assert set(scores) == {"sr2", "denoise50"}
        orders.append(list(events))
    assert orders[0] == orders[1]
    assert [e for e in orders[0] if e != "call"] == ["sr2 0", "sr2 1", "denoise50 0", "denoise50 1"]
    assert orders[0].count("call") >= 4
