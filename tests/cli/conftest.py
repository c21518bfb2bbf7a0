"""Weights for the tests of flags: a run, and a file in the authors' format."""

from __future__ import annotations

import pytest
import runs

from ipt_jax.cli.app import main


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> str:
    """A run with random parameters for sr2 and denoise50, whose EMA is half of them."""
    folder = tmp_path_factory.mktemp("flags") / "run"
    runs.make_run(folder, tasks=("sr2", "denoise50"))
    return str(folder)


@pytest.fixture(scope="session")
def authors(run, tmp_path_factory) -> str:
    """A file in the authors' format with one task, whose name the shapes do not tell."""
    file = tmp_path_factory.mktemp("authors") / "weights.safetensors"
    words = ["--weights", run, "--task", "denoise50", "--format", "safetensors", "-o", str(file)]
    assert main(["export", *words]) == 0
    return str(file)
