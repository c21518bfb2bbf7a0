"""`ipt bench step` and `ipt bench forward`."""

from __future__ import annotations

import json

import pytest

from ipt_jax.cli.app import main


@pytest.mark.parametrize("what", ["step", "forward"])
def test_bench_prints_one_json_object_last(what, capsys, tmp_path):
    keys = {"features": 4, "patch": 4, "hidden": 32, "heads": 2, "tile": 16}
    small = [f"--config.model.{key}={value}" for key, value in keys.items()]
    small += ["--config.evaluate.overlap=4", "--config.tasks=sr2,denoise50"]
    # The flags have precedence over the config.
    small += ["--config.devices=1", "--config.model.dtype=float32"]
    code = main(
        [
            "bench",
            what,
            "--config=configs/demo.py",
            "--batch=16",
            "--calls=2",
            "--devices=2",
            "--dtype=bfloat16",
            f"--json={tmp_path / 'a.json'}",
            *small,
        ]
    )
    assert code == 0 and (tmp_path / "a.json").exists()
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert found == json.loads((tmp_path / "a.json").read_text())
    assert found["devices"] == 2 and found["batch"] == 16 and found["tasks"] == 2
    assert found["dtype"] == "bfloat16"
    assert found["calls"] == 2 and found["what"] == what
    assert found["samples_per_s"] == pytest.approx(16 / found["seconds"])
    assert found["share_of_product"] > 0 and found["compile_s"] > 0


def test_a_batch_that_does_not_divide_is_refused(capsys):
    assert main(["bench", "step", "--config=configs/demo.py", "--batch=25"]) == 2
    assert "batch_size=25 must be a multiple of" in capsys.readouterr().err
