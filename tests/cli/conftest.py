"""Weights for the tests of flags: a run, and a file in the authors' format."""

from __future__ import annotations

import pathlib

import pytest
import runs

from ipt_jax.cli.app import main


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> str:
    """A run with random parameters for sr2 and denoise50, whose EMA is half of them.

    It has checkpoints of the steps 19 and 20.
    """
    folder = tmp_path_factory.mktemp("flags") / "run"
    runs.make_run(folder, steps=(19, 20), tasks=("sr2", "denoise50"))
    return str(folder)


def write_authors(run: str, folder: pathlib.Path) -> str:
    """Writes a file in the authors' format with one task, whose name the shapes do not tell."""
    file = folder / "weights.safetensors"
    words = ["--weights", run, "--task", "denoise50", "--format", "safetensors", "-o", str(file)]
    assert main(["export", *words]) == 0
    return str(file)


@pytest.fixture(scope="session")
def authors(run, tmp_path_factory) -> str:
    """The newest checkpoint of the run in the authors' format."""
    return write_authors(run, tmp_path_factory.mktemp("authors"))


@pytest.fixture(scope="session")
def older_authors(run, tmp_path_factory) -> str:
    """The checkpoint before it in the authors' format."""
    return write_authors(f"{run}@19", tmp_path_factory.mktemp("older_authors"))
