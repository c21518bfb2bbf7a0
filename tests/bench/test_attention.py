"""`ipt bench attention`."""

from __future__ import annotations

import json

from ipt_jax.cli.app import main

# 256 tokens, as in the paper's model, with two heads of 72 features.
SMALL = ["--config=configs/demo.py", "--config.model.heads=2", "--samples=2", "--calls=1"]


def test_kernels_are_compared_with_exact_attention(capsys, tmp_path):
    file = tmp_path / "a.json"
    assert main(["bench", "attention", *SMALL, "--interpret", f"--json={file}"]) == 0
    assert file.exists()
    said = capsys.readouterr().out
    found = json.loads(said.strip().splitlines()[-1])
    assert found == json.loads(file.read_text())
    assert (found["tokens"], found["heads"]) == (256, 2)
    assert (found["samples"], found["calls"], found["interpreted"]) == (2, 1, True)
    assert set(found["forms"]) == {"self", "decoder, q = k", "cross"}
    for kernels in found["forms"].values():
        assert kernels["plain"]["value_error"] == 0 and kernels["plain"]["seconds"] > 0
        # The config's dtype is float32, in which only the order of sums differs.
        assert 0 < kernels["fused"]["value_error"] < 2e-6
        assert 0 < kernels["fused"]["gradient_error"] < 5e-6
        assert "needs devices of kind gpu" in kernels["cudnn"]["refused"]
    assert "refused" not in said.splitlines()[1] and "self" in said.splitlines()[1]


def test_what_cannot_run_here_is_said(capsys):
    assert main(["bench", "attention", *SMALL]) == 0
    out = capsys.readouterr().out
    assert "fused    model.attention=fused needs devices of kind tpu" in out


def test_numbers_are_checked(capsys):
    assert main(["bench", "attention", *SMALL, "--samples=0"]) == 2
    assert "--samples 0: it must be 1 or more" in capsys.readouterr().err
