"""Flags of `ipt pretrain` and `ipt finetune`: each does something. No step is trained."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import time

import cv2
import numpy as np
import pytest
import runs
import stand_in
from groups import free_port

COMMANDS = ("pretrain", "finetune")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """Images for training, and weights to begin with in the folder "weights" beside them."""
    folder = tmp_path_factory.mktemp("training") / "images"
    folder.mkdir()
    for i in range(8):
        image = np.random.default_rng(i).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), image)
    runs.make_run(folder.parent / "weights", tasks=("denoise50",))
    return folder


@pytest.fixture
def train(folder, monkeypatch, tmp_path):
    """Returns a function that runs a command in a folder with some flags and config keys."""
    stand_in.replace_step(monkeypatch)
    weights = str(folder.parent / "weights")

    def run(command: str, name: str, *words: str, **changes) -> int:
        changes = {"steps": 2, "init_from": weights, **changes}
        return stand_in.run(folder, tmp_path / name, *words, command=command, **changes)

    return run


def settings(workdir: pathlib.Path) -> dict:
    return json.loads((workdir / "config.json").read_text())["config"]


@pytest.mark.parametrize("command", COMMANDS)
def test_config_and_workdir(command, train, tmp_path):
    for name, seed in (("a", 5), ("b", 6)):
        assert train(command, name, seed=seed) == 0
    assert [settings(tmp_path / name)["seed"] for name in ("a", "b")] == [5, 6]


@pytest.mark.parametrize("command", COMMANDS)
def test_another_config_is_used_only_if_forced(command, train, tmp_path, capsys):
    assert train(command, "a") == 0
    assert train(command, "a", seed=5) == 2
    assert "--force-config:\n  seed: 0 -> 5" in capsys.readouterr().err
    assert train(command, "a", "--force-config", seed=5) == 0
    assert settings(tmp_path / "a")["seed"] == 5


@pytest.mark.parametrize("command", COMMANDS)
def test_the_exit_code_of_a_run_that_was_stopped(command, train, monkeypatch):
    """A signal comes during the second of many steps; the same process can resume the run."""
    stand_in.replace_step(
        monkeypatch, lambda number: os.kill(os.getpid(), signal.SIGTERM) if number == 2 else None
    )
    assert train(command, "a", "--stopped-code=75", steps=10_000) == 75
    stand_in.replace_step(monkeypatch)
    assert train(command, "a", "--stopped-code=75", steps=4) == 0


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--coordinator", "--num-processes", "--process-id"])
def test_the_place_among_several_processes(command, flag, train, monkeypatch, capsys):
    """Process 0 waits for the others, and names those that do not come; others look for it.

    Each flag replaces a value of the environment. A run of several processes in earnest is in
    tests/distributed/test_start.py.
    """
    ports = [free_port() for _ in range(2)]
    values = {"--coordinator": f"127.0.0.1:{ports[0]}", "--num-processes": "2"}
    values["--process-id"] = "1"
    for name, value in values.items():
        monkeypatch.setenv("IPT_" + name[2:].replace("-", "_").upper(), value)
    monkeypatch.setenv("IPT_START_TIMEOUT", "0.3")
    # The processes meet at the port after that of jax.
    said = {
        "--coordinator": (f"127.0.0.1:{ports[1]}", f"nothing at 127.0.0.1:{ports[1] + 1}"),
        "--num-processes": ("3", "process 0 of 3 did not come"),
        "--process-id": ("0", "process 1 of 2 did not come"),
    }
    value, message = said[flag]
    assert train(command, "a", f"{flag}={value}") == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_how_long_to_wait_for_other_processes(command, train, monkeypatch, capsys):
    monkeypatch.setenv("IPT_START_TIMEOUT", "3")
    flags = [f"--coordinator=127.0.0.1:{free_port()}", "--num-processes=2", "--process-id=1"]
    began = time.monotonic()
    assert train(command, "a", *flags, "--start-timeout=0.2") == 1
    assert time.monotonic() - began < 3
    assert "process 0 of 2 did not come within 0 s" in capsys.readouterr().err
