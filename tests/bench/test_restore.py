"""`ipt bench restore`."""

from __future__ import annotations

import json

import pytest
import runs

from ipt_jax.cli.app import main


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
    assert (tmp_path / "a.json").exists()
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
