"""Runs whose output dies, whose terminal is closed, and whose final evaluation is interrupted."""

from __future__ import annotations

import os
import pathlib
import pty
import signal
import subprocess
import sys
import threading
import time

import dead_outputs
import pytest
from training import command, config, lines, make_photographs, wait_for_step

from ipt_jax.checkpoints.checkpoints import Checkpoints
from ipt_jax.train.loop import pretrain

pytest.importorskip("skimage", reason="needs scikit-image's photographs")

EVALUATED = {
    "steps": 4,
    "checkpoint": {"every": 2},
    "evaluate": {"every": 2, "pictures": 1, "size": 48, "batch": 4, "overlap": 4},
    "log": {"every": 1, "tensorboard": False},
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> pathlib.Path:
    return make_photographs(tmp_path_factory.mktemp("photographs"))


def assert_finished(workdir: pathlib.Path, steps: int) -> None:
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        assert checkpoints.latest() == steps
    assert (workdir / "evaluation" / f"{steps:08d}.txt").exists()
    assert not (workdir / "lock").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", dead_outputs.KINDS)
def test_a_run_whose_output_is_dead_evaluates_saves_and_ends_with_0(photographs, tmp_path, kind):
    run = command(photographs, tmp_path / "run", tmp_path, **EVALUATED)
    assert dead_outputs.start(run, kind).wait(240) == 0
    assert_finished(tmp_path / "run", 4)


# Becomes the leader of a session on the terminal at descriptor 0, as a login shell does.
SESSION = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.slow
def test_a_closed_terminal_saves_the_run(photographs, tmp_path):
    workdir = tmp_path / "run"
    changes = {**EVALUATED, "steps": 100_000, "evaluate": {"every": 0}}
    run = command(photographs, workdir, tmp_path, "--stopped-code=75", **changes)
    main, other = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", SESSION, *run], stdin=other, stdout=other, stderr=other
        )
        os.close(other)
        wait_for_step(workdir, 3, process)
    finally:
        # The kernel sends SIGHUP, and writing fails from now on.
        os.close(main)
    try:
        assert process.wait(120) == 75
    finally:
        process.kill()
        process.wait(60)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        assert checkpoints.latest() == lines(workdir)[-1]["step"] >= 3
    assert not (workdir / "lock").exists()


# An overlap of all but one row makes thousands of tiles of an image, and a slow evaluation.
SLOW = {"every": 2, "pictures": 2, "size": 64, "batch": 4, "overlap": 15}


@pytest.mark.slow
def test_a_signal_gives_up_the_final_evaluation_which_is_repeated(photographs, tmp_path):
    changes = {**EVALUATED, "steps": 2}

    def interrupt() -> None:
        while not (tmp_path / "checkpoints" / "2").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGHUP)

    # If the signal came too late, it should not end pytest.
    before = signal.signal(signal.SIGHUP, lambda number, frame: None)
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        outcome = pretrain(config(photographs, **{**changes, "evaluate": SLOW}), str(tmp_path))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (outcome.step, outcome.finished, outcome.scores) == (2, False, {})
    assert not (tmp_path / "lock").exists() and not (tmp_path / "evaluation").exists()
    outcome = pretrain(config(photographs, **changes), str(tmp_path))
    assert outcome.finished and set(outcome.scores) == {"sr2", "denoise50"}
    assert ["loss" in line for line in lines(tmp_path)] == [True, True, False]


@pytest.mark.slow
def test_sigterm_in_the_final_evaluation_ends_with_the_stopped_code(photographs, tmp_path):
    workdir = tmp_path / "run"
    changes = {**EVALUATED, "steps": 2, "evaluate": SLOW}
    run = command(photographs, workdir, tmp_path, "--stopped-code=75", **changes)
    process = subprocess.Popen(run, stderr=subprocess.PIPE, text=True)
    try:
        while not (workdir / "checkpoints" / "2").exists():
            assert process.poll() is None
            time.sleep(0.05)
        # The state is saved; what follows is the evaluation.
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait(60)
    assert process.returncode == 75, said
    assert "stopped by SIGTERM at step 2 of 2, saved; start the same command again" in said
    assert "Traceback" not in said and not (workdir / "lock").exists()
    assert [line["step"] for line in lines(workdir)] == [1, 2]
    # The same command, with fewer tiles, repeats the evaluation.
    again = command(photographs, workdir, tmp_path, **{**changes, **EVALUATED, "steps": 2})
    assert subprocess.run(again, capture_output=True, timeout=240).returncode == 0
    assert_finished(workdir, 2)
    assert ["loss" in line for line in lines(workdir)] == [True, True, False]
