"""Flags that name weights, in each command that has them, and the flags of import and export."""

from __future__ import annotations

import json
import sys
import types

import jax
import numpy as np
import pytest
from PIL import Image

import ipt_jax
from ipt_jax.bench import restore as bench_restore
from ipt_jax.cli.app import main
from ipt_jax.restore.network import CompiledNetwork
from ipt_jax.serve import page


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("set") / "images"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    Image.fromarray(noise).save(folder / "a.png")
    return str(folder)


def loaded_by_bench(monkeypatch, *words):
    """Returns what `ipt bench restore` measures: the model, and the other arguments."""
    seen = []

    def measure(*arguments):
        seen.append(arguments)
        return {}

    monkeypatch.setattr(bench_restore, "measure_restore", measure)
    assert main(["bench", "restore", *words]) == 0
    (arguments,) = seen
    return arguments


def served(monkeypatch, *words):
    """Returns what `ipt serve` serves: the model, and the other arguments."""
    seen = []
    monkeypatch.setitem(sys.modules, "gradio", types.ModuleType("gradio"))
    monkeypatch.setattr(
        page, "serve_until_interrupted", lambda model, **others: seen.append((model, others))
    )
    assert main(["serve", *words]) == 0
    ((model, others),) = seen
    return model, others


def exported(tmp_path, *words):
    out = tmp_path / "folder"
    assert main(["export", *words, "--format", "folder", "-o", str(out), "--overwrite"]) == 0
    return ipt_jax.load(str(out))


def same_params(a, b) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, dict(a.params), dict(b.params)))


@pytest.mark.parametrize("heads", [2, 4])
def test_heads_and_tasks_of_an_authors_file_are_those_of_the_flags(
    authors, heads, tmp_path, monkeypatch
):
    words = ["--weights", authors, f"--heads={heads}", "--weights-tasks=denoise30"]
    imported = [authors, f"--heads={heads}", "--task=denoise30", "-o", str(tmp_path / "in")]
    assert main(["import", *imported]) == 0
    for model in (
        exported(tmp_path, *words),
        loaded_by_bench(monkeypatch, *words)[0],
        served(monkeypatch, *words)[0],
        ipt_jax.load(str(tmp_path / "in")),
    ):
        assert (model.model.heads, list(model.tasks)) == (heads, ["denoise30"])


def test_raw_weights_are_not_their_average(run, tmp_path, monkeypatch):
    for flags, raw in (([], False), (["--raw"], True)):
        words = ["--weights", run, *flags]
        expected = ipt_jax.load(run, raw=raw)
        for model in (
            exported(tmp_path, *words),
            loaded_by_bench(monkeypatch, *words)[0],
            served(monkeypatch, *words)[0],
        ):
            assert same_params(model, expected), flags


def test_scores_are_those_of_the_flags_heads_and_tasks(authors, images, tmp_path):
    found = {}
    for heads in (2, 4):
        file = tmp_path / f"{heads}.json"
        words = ["--weights", authors, f"--heads={heads}", "--weights-tasks=denoise30"]
        assert main(["evaluate", *words, "--data", images, "--json", str(file)]) == 0
        (row,) = json.loads(file.read_text())["rows"]
        assert row["task"] == "denoise30"
        found[heads] = row["result"]
    assert found[2] != found[4]


def test_tasks_and_dtype_of_an_export(run, tmp_path):
    assert list(exported(tmp_path, "--weights", run, "--task", "denoise50").tasks) == ["denoise50"]
    exact = exported(tmp_path, "--weights", run)
    half = exported(tmp_path, "--weights", run, "--dtype", "float16")
    assert list(exact.tasks) == ["sr2", "denoise50"]
    rounded = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), dict(exact.params))
    assert jax.tree.all(jax.tree.map(np.array_equal, dict(half.params), rounded))


def test_an_export_replaces_a_result_only_if_asked_to(run, tmp_path, capsys):
    words = ["export", "--weights", run, "--format", "npz", "-o", str(tmp_path / "a.npz")]
    assert main(words) == 0
    before = (tmp_path / "a.npz").read_bytes()
    assert main([*words, "--task", "sr2"]) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert (tmp_path / "a.npz").read_bytes() == before
    assert main([*words, "--task", "sr2", "--overwrite"]) == 0
    assert list(ipt_jax.load(str(tmp_path / "a.npz")).tasks) == ["sr2"]


def test_where_the_page_listens_and_what_it_refuses(run, monkeypatch):
    words = ["--weights", run]
    _, usual = served(monkeypatch, *words)
    assert usual == {"host": "127.0.0.1", "port": 7860, "max_pixels": 16_000_000}
    flags = ["--host", "0.0.0.0", "--port", "81", "--max-megapixels", "0.5"]
    _, changed = served(monkeypatch, *words, *flags)
    assert changed == {"host": "0.0.0.0", "port": 81, "max_pixels": 500_000}


def test_bench_restore_measures_what_is_asked_for(run, monkeypatch):
    words = ["--weights", run, "--task", "denoise50,sr2", "--size", "70x40", "--calls", "5"]
    words += ["--batch", "3", "--dtype", "bfloat16", "--protocol", "official"]
    words += ["--overlap", "9", "--ensemble"]
    model, task, height, width, calls, batch, tiling = loaded_by_bench(monkeypatch, *words)
    assert (task, height, width, calls, batch) == ("denoise50,sr2", 40, 70, 5, 3)
    assert model.model.dtype == "bfloat16"
    assert dict(tiling) == {"protocol": "official", "overlap": 9, "ensemble": True}


@pytest.mark.parametrize("batch", [2, 3])
@pytest.mark.parametrize("command", ["restore", "evaluate"])
def test_batch_is_the_number_of_tiles_in_a_call_and_device(
    command, batch, run, images, tmp_path, monkeypatch
):
    sizes = set()
    bind = CompiledNetwork.bind

    def noted(self, *arguments):
        apply = bind(self, *arguments)

        def call(tiles):
            sizes.add(len(tiles))
            return apply(tiles)

        return call

    monkeypatch.setattr(CompiledNetwork, "bind", noted)
    place = {"restore": [images, "-o", str(tmp_path)], "evaluate": ["--data", images]}[command]
    words = ["--task", "sr2", "--overlap", "4", f"--batch={batch}"]
    assert main([command, *place, "--weights", run, *words]) == 0
    assert sizes == {batch * jax.device_count()}


def test_weights_are_those_that_are_named(run, authors, older_authors, tmp_path, monkeypatch):
    # What a command without --weights takes; the shipped weights are larger.
    monkeypatch.setenv("IPT_WEIGHTS", run)
    found = []
    for step, file in ((19, older_authors), (20, authors)):
        words = ["--weights", f"{run}@{step}"]
        imported = str(tmp_path / f"imported{step}")
        expected = ipt_jax.load(f"{run}@{step}")
        for model in (
            exported(tmp_path, *words),
            loaded_by_bench(monkeypatch, *words)[0],
            served(monkeypatch, *words)[0],
        ):
            assert same_params(model, expected), step
        assert main(["import", file, "--heads=2", "--task=denoise50", "-o", imported]) == 0
        assert (tmp_path / f"imported{step}" / "model.json").exists()
        found.append(ipt_jax.load(imported))
    assert not same_params(*found)


def test_files_of_an_export(run, tmp_path):
    """Each format is written where it is asked for, and the card says what it is told."""
    scores = tmp_path / "scores.json"
    words = ["--task=denoise50", "--weights=input", f"--data={tmp_path / 'images'}"]
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    assert main(["evaluate", *words, "--json", str(scores)]) == 0
    for form, file in (("npz", "a"), ("safetensors", "b")):
        words = [f"--format={form}", f"--out={tmp_path / file}", f"--scores={scores}"]
        assert main(["export", "--weights", run, *words, f"--licence=of {file}"]) == 0
        card = json.loads((tmp_path / f"{file}.card.json").read_text())
        assert card["training"]["licence of the data"] == f"of {file}"
        assert any("denoise50" in key for key in card["scores"])
    begins = [(tmp_path / file).read_bytes()[:2] for file in "ab"]
    assert begins[0] == b"PK" and begins[1] != b"PK"


def test_an_export_without_weights_takes_the_default(run, tmp_path, monkeypatch):
    monkeypatch.setenv("IPT_WEIGHTS", run)
    assert same_params(exported(tmp_path), ipt_jax.load(run))
    assert json.loads((tmp_path / "folder.card.json").read_text())["source"] == "run@20"
