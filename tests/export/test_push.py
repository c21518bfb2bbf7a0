"""`ipt push`: the real client of huggingface_hub, and a stand-in for the hub on 127.0.0.1."""

from __future__ import annotations

import json
import sys

import hub as stand_in
import jax
import numpy as np
import pytest
import web_server

import ipt_jax
from ipt_jax.cli.app import main
from ipt_jax.export import push
from ipt_jax.weights.default import SHIPPED

PUSH = ("push", "hf://me/restorer", "--weights", "ipt_small")
FILES = {".gitattributes", "README.md", "card.json", "model.json", "weights.safetensors"}


@pytest.mark.parametrize(
    "words, message",
    [
        (("push", "me/restorer"), "hf://ORG/NAME"),
        (("push", "hf://me/restorer/file.pt"), "without a file"),
        (("push", "hf://me/restorer@a", "--branch", "b"), "different branches"),
        (("push", "gs://me/restorer"), "hf://ORG/NAME"),
        (("push", "hf://me/restorer"), "[hub]"),
    ],
)
def test_wrong_usage_is_one_line(words, message, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A stand-in, and a client with its token and an empty cache."""
    pytest.importorskip("huggingface_hub", reason="needs the extra hub")
    monkeypatch.chdir(tmp_path)
    with stand_in.running() as running:
        running.set_up_client(monkeypatch, tmp_path / "cache")
        monkeypatch.setenv("HF_TOKEN", running.token)
        monkeypatch.delenv("IPT_WEIGHTS", raising=False)
        yield running


@pytest.mark.slow
def test_what_is_pushed_can_be_loaded(server, capsys):
    words = (
        "--task",
        "sr2,jpeg",
        "--private",
        "--message=First",
        "--weights-licence",
        "cc-by-sa-4.0",
    )
    assert main([*PUSH, *words]) == 0
    repo = server.repos["me/restorer"]
    assert repo.private and set(repo.branches) == {"main"}
    commit = repo.branches["main"]
    assert f"hf://me/restorer@{commit}: uploaded and checked" in capsys.readouterr().out
    assert b"license: cc-by-sa-4.0" in repo.commits[commit]["README.md"]
    assert repo.messages[commit] == "First" and repo.commits[commit].keys() == FILES
    loaded, want = ipt_jax.load("hf://me/restorer"), ipt_jax.load("ipt_small")
    assert list(loaded.tasks) == ["sr2", "jpeg"]
    for name in ("body", "task_sr2", "task_jpeg"):
        jax.tree.map(np.testing.assert_array_equal, loaded.params[name], want.params[name])
    # The shipped weights are stored as float16, and so are these.
    header = repo.commits[commit]["weights.safetensors"]
    assert b'"F16"' in header[:500] and b'"F32"' not in header[:500]


@pytest.mark.slow
def test_the_card_is_read_back(server, tmp_path, capsys):
    from huggingface_hub import ModelCard

    out = tmp_path / "out"
    assert main([*PUSH, "--task", "sr2,denoise30", "--dry-run", str(out)]) == 0
    assert "nothing was uploaded" in capsys.readouterr().out and not server.asked
    assert {file.name for file in out.iterdir()} == FILES - {".gitattributes"}
    card = ModelCard.load(out / "README.md")
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.license) == (
        "ipt_jax",
        "image-to-image",
        "other",
    )
    assert {"super-resolution", "denoising", "image-restoration"} <= set(data.tags)
    assert "deraining" not in data.tags and data.model_name == "restorer"
    known = json.loads((SHIPPED / "ipt_small.card.json").read_text())["scores"]
    got = {
        f"{r.dataset_name}/{r.dataset_config}/{r.metric_name}": r.metric_value
        for r in data.eval_results
    }
    assert got["Set5/sr2/PSNR (Y)"] == round(known["Set5/sr2/psnr_y"], 4)
    assert all("sr2" in name or "denoise30" in name for name in got)
    count = sum(
        key.split("/")[1] in ("sr2", "denoise30", "denoise30 unclipped")
        and not key.endswith("/pictures")
        for key in known
    )
    assert len(got) == count > 8
    assert "ipt restore photo.png --task sr2 --weights hf://me/restorer" in card.text
    assert "CC BY-SA 4.0" in card.text and str(tmp_path) not in card.content
    assert list(ipt_jax.load(out).tasks) == ["sr2", "denoise30"]
    assert json.loads((out / "card.json").read_text())["training"]["steps"] == 3215
    assert main([*PUSH, "--dry-run", str(out)]) == 2
    assert f"--dry-run {out} exists" in capsys.readouterr().err


@pytest.mark.slow
def test_a_branch_of_a_repository_that_exists(server, capsys):
    assert main([*PUSH, "--task", "sr2"]) == 0
    first = dict(server.repos["me/restorer"].branches)
    # Without --weights, these are the shipped weights.
    assert main([*PUSH[:2], "--task", "jpeg", "--branch", "next"]) == 0
    repo = server.repos["me/restorer"]
    assert not repo.private and repo.branches["main"] == first["main"]
    assert list(ipt_jax.load("hf://me/restorer@next").tasks) == ["jpeg"]
    assert list(ipt_jax.load("hf://me/restorer").tasks) == ["sr2"]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["no token", "not the owner's", "network", "offline"])
def test_an_upload_that_fails_is_one_line(server, case, monkeypatch, capsys):
    from huggingface_hub import constants

    code, message = 2, "set HF_TOKEN to a token that may write"
    if case == "no token":
        monkeypatch.delenv("HF_TOKEN")
    elif case == "not the owner's":
        server.repos["me/restorer"] = stand_in.Repo()
        server.repos["me/restorer"].commit({"README.md": b"# theirs\n"})
        monkeypatch.setattr(
            stand_in._Handler, "_is_owner", property(lambda self: "create" in self.path)
        )
    elif case == "network":
        monkeypatch.setenv("HF_ENDPOINT", web_server.closed_port())
        code, message = 1, "cannot be reached"
    else:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        code, message = 1, "HF_HUB_OFFLINE is set"
    assert main([*PUSH, "--task", "sr2"]) == code
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("ipt: hf://me/restorer: ") and message in line


@pytest.mark.slow
def test_the_smallest_dtype_loses_nothing(server):
    model = ipt_jax.load("ipt_small")
    assert push.smallest_dtype(model) == "float16"
    model.params["task_sr2"]["embedding"] = model.params["task_sr2"]["embedding"] + 1e-7
    assert push.smallest_dtype(model) == "float32"
