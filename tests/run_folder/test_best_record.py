"""The record of a run's evaluations: its checksum, and its reconstruction from the metrics log."""

from __future__ import annotations

import json
import logging
import math

import numpy as np
import pytest
from etils import epath

from ipt_jax.run_folder.best_record import best_step, read_best, write_best
from ipt_jax.run_folder.metrics_log import MetricsLog

SCORES = {10: (27.5, 31.25), 20: (28.1, 31.5), 30: (27.9, 31.6)}


@pytest.fixture
def folder(tmp_path) -> epath.Path:
    """A folder with the metrics log of three evaluations, and the record of them."""
    path = epath.Path(tmp_path)
    log = MetricsLog(path, 0, False, False, True)
    for step, (sr, noise) in SCORES.items():
        log.write(step, {"loss": 3.0, "l1/sr2": 2.0})
        values = {"held_out/sr2/psnr_y": sr, "held_out/denoise50/psnr_y": noise}
        log.write(step, values, "evaluation")
    log.close()
    write_best(path, "psnr_y", means())
    return path


def means() -> list[tuple[int, float]]:
    return [(step, float(np.mean(values))) for step, values in SCORES.items()]


def test_every_flipped_bit_is_noticed_and_the_record_is_rebuilt(folder, caplog):
    file = folder / "best.json"
    written = file.read_bytes()
    rng = np.random.default_rng(0)
    for bit in rng.choice(8 * len(written), 200, replace=False):
        damaged = bytearray(written)
        damaged[bit // 8] ^= 1 << int(bit % 8)
        file.write_bytes(damaged)
        assert read_best(folder, "psnr_y") == means(), bit
        assert best_step(folder, "psnr_y") == 20
    assert "is damaged" in caplog.text and "the metrics log, which has 3" in caplog.text


def test_the_metric_of_one_task_is_rebuilt(folder):
    (folder / "best.json").write_bytes(b"")
    assert read_best(folder, "sr2/psnr_y") == [(10, 27.5), (20, 28.1), (30, 27.9)]
    assert best_step(folder, "sr2/psnr_y") == 20
    # Without the name of the metric, nothing can be rebuilt.
    assert best_step(folder) is None


def test_records_without_a_checksum_are_read(folder, caplog):
    """Version 0.1 wrote none."""
    file = folder / "best.json"
    content = json.loads(file.read_text())
    del content["checksum"]
    file.write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        assert read_best(folder, "psnr_y") == means() and best_step(folder) == 20
    assert not caplog.records
    # Their step and value have to agree with their evaluations.
    file.write_text(json.dumps({**content, "step": 30}))
    assert best_step(folder, "psnr_y") == 20 and "is damaged" in caplog.text


def test_a_value_that_is_not_a_number_is_never_the_best(folder, caplog):
    write_best(folder, "psnr_y", [(1, math.nan), (2, 20.0)])
    with caplog.at_level(logging.WARNING):
        assert best_step(folder) == 2
        write_best(folder, "psnr_y", [(1, math.nan)])
        assert best_step(folder) == 1
    assert not caplog.records
