"""The command line: what it says of itself, and of wrong usage."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ipt_jax.cli.app import main, split_overrides


def test_help_needs_no_jax():
    code = "import sys; from ipt_jax.cli import parser; parser().format_help(); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_module_and_help():
    done = subprocess.run(
        [sys.executable, "-m", "ipt_jax", "pretrain", "--help"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (
        done.returncode == 0 and "--workdir" in done.stdout and "--config.batch_size" in done.stdout
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["pretrian"], "unknown command 'pretrian' (did you mean 'pretrain'?)"),
        (
            ["pretrain", "--config=configs/demo.py", "--workdir=x", "--workdr=y"],
            "--workdr=y (did you mean '--workdir'?)",
        ),
        (["pretrain", "--config=configs/demo.py"], "--workdir"),
        (
            ["pretrain", "--config=configs/demo.py", "--workdir=x", "--config.stepz=1"],
            "unknown config key 'stepz'",
        ),
        (["pretrain", "--config=configs/demo.py", "--workdir=x", "--config.steps"], "has no value"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(arguments)
    except SystemExit as exit_:
        code = exit_.code
    said = capsys.readouterr().err
    assert code == 2 and message in said and len(said.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_overrides_with_and_without_an_equals_sign():
    rest, overrides = split_overrides(
        ["pretrain", "--config=a.py", "--config.steps=3", "--config.data.dir", "b=c", "--workdir=w"]
    )
    assert rest == ["pretrain", "--config=a.py", "--workdir=w"]
    assert overrides == ["steps=3", "data.dir=b=c"]
