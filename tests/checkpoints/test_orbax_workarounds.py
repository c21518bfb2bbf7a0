"""Orbax's log lines, its patterns of file names, and which checkpoints are kept."""

from __future__ import annotations

import logging

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from ipt_jax.checkpoints import orbax_workarounds
from ipt_jax.checkpoints.checkpoints import Checkpoints


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            "Future exception was never retrieved\nfuture: <Future finished exception=OSError(30)>",
            False,
        ),
        (
            "Task was destroyed but it is pending! task: <Task coro=<f() running at "
            "/x/orbax/checkpoint/a.py:1>>",
            False,
        ),
        ("Executing <Handle> took 0.2 seconds", True),
    ],
)
def test_what_orbax_drops_is_not_told(message, shown):
    line = logging.LogRecord(
        "asyncio", logging.ERROR, "/x/asyncio/base_events.py", 1, message, (), None
    )
    assert orbax_workarounds.not_of_orbax(line) is shown


@pytest.mark.parametrize("name", ["a*", "a?", "[ab]b", "[1]", "[[]", "[!x]b"])
def test_a_pattern_matches_only_below_a_folder_whose_name_looks_like_one(tmp_path, name):
    for folder in (name, "ab", "bb", "1"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "ocdbt.process_0").write_text(folder)
    found = list(epath.Path(tmp_path / name).glob("ocdbt.process_*"))
    assert [file.read_text() for file in found] == [name]


def test_runs_side_by_side_keep_their_own_files(tmp_path):
    """`a*` must not take the files of `ab`, which is in the middle of a save."""
    beside = tmp_path / "ab" / "checkpoints" / "1.orbax-checkpoint-tmp" / "state"
    for process in ("ocdbt.process_0", "ocdbt.process_1"):
        (beside / process).mkdir(parents=True)
        (beside / process / "manifest.ocdbt").write_bytes(b"not read")
    before = {file: file.read_bytes() for file in beside.rglob("*") if file.is_file()}
    state = {"x": jnp.arange(3.0)}
    with Checkpoints(tmp_path / "a*" / "checkpoints") as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.wait()
        np.testing.assert_array_equal(checkpoints.restore(state)[0]["x"], state["x"])
    assert {file: file.read_bytes() for file in beside.rglob("*") if file.is_file()} == before


def test_the_checkpoint_of_step_0_does_not_count_and_goes_with_the_next(tmp_path):
    state = {"x": jnp.arange(3.0)}
    kept = []
    with Checkpoints(tmp_path, keep=2, keep_every=5) as checkpoints:
        for step in (0, 3, 4, 5, 6):
            checkpoints.save(step, state, {})
            checkpoints.wait()
            kept.append(checkpoints.steps())
    assert kept == [[0], [3], [3, 4], [4, 5], [5, 6]]
