"""Weights for restoring, and a network that copies its input."""

from __future__ import annotations

import pytest
import runs

import ipt_jax
from ipt_jax.cli import restore as commands_restore
from tests.weights.test_load import Copies


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> str:
    """A run of a tiny model with random parameters for sr2 and denoise50."""
    folder = tmp_path_factory.mktemp("weights") / "run"
    runs.make_run(folder, tasks=("sr2", "denoise50"))
    return str(folder)


@pytest.fixture
def copies(weights, monkeypatch) -> str:
    """Makes `ipt restore` use a network that copies its input, enlarged for sr2."""
    loaded = ipt_jax.load(weights)
    made = Copies(loaded.model, loaded.params, loaded.tasks, {})
    monkeypatch.setattr(commands_restore, "load_weights", lambda *_, **__: made)
    return weights
