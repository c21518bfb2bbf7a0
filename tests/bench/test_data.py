"""`ipt bench data`."""

from __future__ import annotations

import json

import pytest
from data_sets import jpeg

from ipt_jax.bench.data import STAGES
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


def test_lists_of_numbers():
    for text in ("", "a", "1,,2", "0", "-1"):
        with pytest.raises(UserError, match=r"--crops .*: give integers of at least 1"):
            parse_numbers(text, "--crops")
    assert parse_numbers("0,2", "--workers", 0) == [0, 2]
