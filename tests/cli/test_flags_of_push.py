"""Flags of `ipt push`: each changes the folder that would be uploaded, as the interface says."""

from __future__ import annotations

import json
import pathlib

import jax
import numpy as np
import pytest

import ipt_jax
from ipt_jax.cli.app import main


@pytest.fixture
def pushed(tmp_path):
    """Returns a function that makes the folder of an upload with these flags."""
    pytest.importorskip("huggingface_hub", reason="needs the extra hub")

    def push(*flags: str) -> pathlib.Path:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        assert main(["push", "hf://me/x", "--dry-run", str(out), *flags]) == 0
        return out

    return push


def same(one, other) -> bool:
    return all(map(np.array_equal, jax.tree.leaves(one.params), jax.tree.leaves(other.params)))


@pytest.mark.slow
def test_weights_are_those_that_are_named(pushed, run):
    for flags, expected in (
        (["--weights", run], ipt_jax.load(run)),
        (["--weights", f"{run}@19"], ipt_jax.load(f"{run}@19")),
        (["--weights", run, "--raw"], ipt_jax.load(run, raw=True)),
    ):
        assert same(ipt_jax.load(pushed(*flags)), expected), flags


@pytest.mark.slow
def test_heads_and_tasks_of_an_authors_file(pushed, authors):
    for heads in (2, 4):
        flags = ["--weights", authors, f"--heads={heads}", "--weights-tasks=denoise30"]
        model = ipt_jax.load(pushed(*flags))
        assert (model.model.heads, list(model.tasks)) == (heads, ["denoise30"])


@pytest.mark.slow
def test_tasks_dtype_and_folder(pushed, run):
    both, one = pushed("--weights", run), pushed("--weights", run, "--task=sr2")
    assert list(ipt_jax.load(both).tasks) == ["sr2", "denoise50"]
    assert list(ipt_jax.load(one).tasks) == ["sr2"]
    half = pushed("--weights", run, "--dtype=float16")
    sizes = [(folder / "weights.safetensors").stat().st_size for folder in (both, half)]
    assert sizes[1] < 0.6 * sizes[0]


@pytest.mark.slow
def test_what_the_card_states(pushed, run, tmp_path):
    from huggingface_hub import ModelCard

    scores = tmp_path / "scores.json"
    row = {"set": "Toy", "task": "sr2", "pictures": 2, "result": {"psnr_y": 31.25}}
    scores.write_text(json.dumps({"rows": [row]}))
    plain = ModelCard.load(pushed("--weights", run) / "README.md")
    flags = ["--licence=Some words", f"--scores={scores}", "--base-model=me/base"]
    card = ModelCard.load(
        pushed("--weights", run, *flags, "--weights-licence=cc0-1.0") / "README.md"
    )
    assert (plain.data.base_model, card.data.base_model) == (None, "me/base")
    assert (plain.data.license, card.data.license) == ("other", "cc0-1.0")
    assert "Some words" in card.text and "Some words" not in plain.text
    assert [result.metric_value for result in card.data.eval_results or ()] == [31.25]
    assert not plain.data.eval_results
