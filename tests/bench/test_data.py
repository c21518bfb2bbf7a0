"""`ipt bench data`."""

from __future__ import annotations

import dataclasses
import json
import time
import types
from typing import Any

import numpy as np
import pytest
from data_sets import Noisy, batches, jpeg

from ipt_jax.bench.data import STAGES, measure_rate, measure_wait, profile_stages
from ipt_jax.cli.app import main
from ipt_jax.cli.bench import parse_numbers
from ipt_jax.errors import UserError

CONFIG = """
from ml_collections import ConfigDict
def get_config():
    return ConfigDict(dict(batch_size=24, data=dict(source="folder", held_out=0)))
"""


def test_bench_measures_every_stage_and_prints_json_last(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for i in range(5):
        (tmp_path / "photos" / f"{i}.jpg").write_bytes(jpeg(i, 220, 260))
    (tmp_path / "config.py").write_text(CONFIG)
    code = main(
        [
            "bench",
            "data",
            f"--config={tmp_path / 'config.py'}",
            f"--config.data.dir={tmp_path / 'photos'}",
            "--seconds=0.2",
            "--workers=0,1",
            "--crops=2",
            "--json",
            str(tmp_path / "found.json"),
        ]
    )
    assert code == 0
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert found == json.loads((tmp_path / "found.json").read_text())
    assert found["pictures"] == 5 and set(found["crops"]) == {"2"}
    for result in found["crops"].values():
        assert set(result["ms_a_picture"]) == set(STAGES) and result["batch_size"] == 24
        assert all(value > 0 for value in result["ms_a_picture"].values())
        rates = result["samples_per_s"]
        assert set(rates) == {"0", "1"} and min(rates.values()) > 0
        assert result["samples_per_core"] > 0 and 0 <= result["wait"] <= 1


class Working(Noisy):
    """Spends `CPU` seconds of this thread on each image."""

    CPU = 0.03

    def __getitem__(self, i: int) -> np.ndarray:
        end = time.thread_time() + self.CPU
        while time.thread_time() < end:
            pass
        return super().__getitem__(i)


def test_the_time_of_each_stage_is_that_of_an_image():
    """CPU time, so the bounds hold on a busy machine."""
    which = batches(Working(6), tasks=["denoise30", "sr2"], batch_size=16, group=2, crops=2)
    per_core, milliseconds = profile_stages(which, 0.3)
    # A batch shows four images, each in two crops of two tasks.
    assert 30 <= milliseconds["read"] < 45
    others = [value for name, value in milliseconds.items() if name != "read"]
    assert all(0 < value < 10 for value in others), milliseconds
    # Four samples of an image.
    assert 4 / 0.06 < per_core <= 4 / 0.03


@dataclasses.dataclass(frozen=True)
class Sleeping:
    """Batches of 20 samples that take `seconds`, without work."""

    seconds: float
    batch_size: int = 20

    def __call__(self, step: int) -> Any:
        time.sleep(self.seconds)
        return types.SimpleNamespace(batch={})


def test_rates_and_waits_are_those_of_batches_that_take_a_known_time():
    rate = measure_rate(Sleeping(0.05), 0, 0.5)
    # No machine sleeps less than it was asked to; a busy one sleeps longer.
    assert 0.3 * 20 / 0.05 < rate <= 20 / 0.05
    # Without worker processes, the loop waits for all of the time that a batch takes.
    assert measure_wait(Sleeping(0.06), 0, 0.01, 0.4) > 0.6
    assert measure_wait(Sleeping(0.0), 0, 0.05, 0.4) < 0.2


def test_lists_of_numbers():
    for text in ("", "a", "1,,2", "0", "-1"):
        with pytest.raises(UserError, match=r"--crops .*: give integers of at least 1"):
            parse_numbers(text, "--crops")
    assert parse_numbers("0,2", "--workers", 0) == [0, 2]
