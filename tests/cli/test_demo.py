"""The demo, from start to end, which takes some minutes."""

from __future__ import annotations

import pytest
from etils import epath

from ipt_jax import config
from ipt_jax.run_folder import metrics_log
from ipt_jax.tasks import PAPER_TASKS
from ipt_jax.train.loop import pretrain


@pytest.mark.soak
def test_the_demo_gains_at_every_task_on_the_kept_photograph(tmp_path):
    pytest.importorskip("skimage", reason="needs scikit-image's photographs")
    outcome = pretrain(config.load("configs/demo.py", ["devices=1"]), str(tmp_path))
    gain = {name: s["psnr_y"] - s["input_psnr_y"] for name, s in outcome.scores.items()}
    assert gain["sr2"] > 0 and gain["sr3"] > 0 and gain["sr4"] > 0 and gain["derain"] > 0
    assert gain["denoise30"] >= 4 and gain["denoise50"] >= 6
    lines = [
        line
        for line in metrics_log.read_lines(epath.Path(tmp_path / "metrics.jsonl"))
        if "loss" in line
    ]
    for name in PAPER_TASKS:
        values = [line[f"l1/{name}"] for line in lines]
        assert sum(values[-3:]) < sum(values[:3]), name
