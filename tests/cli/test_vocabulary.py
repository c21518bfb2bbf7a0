"""The flags that mean the same in every command, names of tasks and of weights."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

import numpy as np
import pytest
import runs
from PIL import Image

import ipt_jax
from ipt_jax.cli.app import main, make_parser
from ipt_jax.config.loading import complete
from ipt_jax.errors import WeightsError
from ipt_jax.tasks import IN_WORDS, TASKS, similar_task
from ipt_jax.weights import default


def commands(parser: argparse.ArgumentParser, name: str = "ipt") -> Iterator[tuple[str, object]]:
    """Yields every command's name and parser."""
    subs = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not subs:
        yield name, parser
    for sub in subs:
        for word, child in sub.choices.items():
            yield from commands(child, f"{name} {word}")


PARSERS = dict(commands(make_parser()))


@pytest.mark.parametrize("pair", [("--task", "--tasks"), ("-o", "--out")])
def test_both_forms_of_a_flag_are_accepted_everywhere(pair):
    counted = 0
    for name, parser in PARSERS.items():
        flags = set(parser._option_string_actions)
        assert not set(pair) & flags or set(pair) <= flags, name
        counted += set(pair) <= flags
    assert counted >= 4


def test_no_command_requires_weights():
    for name, parser in PARSERS.items():
        action = parser._option_string_actions.get("--weights")
        assert action is None or not action.required, name


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        *((word, "sr2") for word in ("2x", "x2", "SR2", "sr_2", "up2", "sr-x2", "upscale")),
        *((word, "sr4") for word in ("4x", "superres4", "super-resolution x4")),
        ("denoise_30", "denoise30"),
        ("noise", "denoise"),
        ("jpg", "jpeg"),
        ("rain", "derain"),
    ],
)
def test_what_people_call_a_task_is_understood(word, meant):
    assert similar_task(word, TASKS) == f" (did you mean {meant!r}?)"


def test_a_hint_names_only_tasks_that_are_there():
    assert similar_task("2x", ["denoise50"]) == ""
    assert similar_task("zzz", TASKS) == ""
    assert set(IN_WORDS) == set(TASKS)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A cache with weights called mine, beside the shipped ones."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(default.VARIABLE, raising=False)
    runs.make_run(tmp_path / "run", tasks=("sr2",))
    out = tmp_path / "cache" / "ipt_jax" / "weights" / "mine"
    out.parent.mkdir(parents=True)
    assert (
        main(["export", "--weights", str(tmp_path / "run"), "--format", "folder", "-o", str(out)])
        == 0
    )
    return out


def test_weights_have_names(own, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert list(default.shipped()) == ["ipt_small", "mine"]
    assert set(ipt_jax.load("mine").tasks) == {"sr2"}
    assert set(ipt_jax.load("ipt_small").tasks) >= {"sr2", "denoise50"}
    assert ipt_jax.load().provenance["from"] == ipt_jax.load("mine").provenance["from"]
    capsys.readouterr()
    assert main(["weights"]) == 0
    said = capsys.readouterr().out
    assert "mine (cached" in said and "ipt_small (shipped" in said and "CC BY-SA" in said
    assert "Set5/sr2 " in said
    with pytest.raises(WeightsError, match=r"did you mean 'ipt_small'.*lists: ipt_small, mine"):
        ipt_jax.load("ipt_smal")
    # A path has precedence over a name.
    (tmp_path / "mine").mkdir()
    with pytest.raises(WeightsError, match="mine"):
        ipt_jax.load("mine")


def test_commands_take_names_of_weights_and_the_default(own, tmp_path, capsys):
    image = np.random.default_rng(0).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    (tmp_path / "set").mkdir()
    Image.fromarray(image).save(tmp_path / "set" / "a.png")
    data = ["--data", str(tmp_path / "set"), "--task", "sr2", "--overlap", "4"]
    files = []
    for words in ([], ["--weights", "mine"], ["--weights", str(own)]):
        file = tmp_path / f"{len(files)}.json"
        assert main(["evaluate", *words, *data, "--json", str(file)]) == 0
        files.append([row["result"] for row in json.loads(file.read_text())["rows"]])
    assert files[0] == files[1] == files[2]
    out = tmp_path / "a.npz"
    assert main(["export", "--weights", "mine", "--format", "npz", "-o", str(out)]) == 0
    assert set(ipt_jax.load(str(out)).tasks) == {"sr2"}


def test_a_run_can_begin_with_named_weights(own, tmp_path):
    from ipt_jax.train.init_from import start_params

    model = ipt_jax.load("mine")
    config = complete({"init_from": "mine", "tasks": ["sr2"]})
    params = start_params("mine", model.model, config)
    np.testing.assert_array_equal(
        params["body"]["linear"]["kernel"], model.params["body"]["linear"]["kernel"]
    )


@pytest.mark.parametrize("command", ["restore", "evaluate"])
def test_an_unknown_task_is_answered_with_the_likely_one(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(default.VARIABLE, raising=False)
    Image.new("RGB", (12, 12)).save(tmp_path / "a.png")
    place = [str(tmp_path / "a.png")] if command == "restore" else ["--data", str(tmp_path)]
    for weights in ([], ["--weights", "ipt_small"]):
        assert main([command, *place, "--tasks", "2x", *weights]) == 2
        said = capsys.readouterr().err
        assert "task '2x' (did you mean 'sr2'?)" in said and "pretrain" not in said


def test_without_a_task_they_are_explained(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(default.VARIABLE, raising=False)
    Image.new("RGB", (12, 12)).save(tmp_path / "a.png")
    assert main(["restore", str(tmp_path / "a.png")]) == 2
    said = capsys.readouterr().err
    for task in ipt_jax.load("ipt_small").tasks:
        assert f"  {task:10} {IN_WORDS[task]}" in said


def test_a_result_that_cannot_be_written_is_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (12, 12)).save("a.png")
    for name in ("x.gif", "x.HEIC", "sub/x.avif"):
        assert main(["restore", "a.png", "--task", "sr2", "-o", name]) == 2
        assert "files are not written" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png"]
