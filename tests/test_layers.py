"""The layers of the package: import-linter's contracts hold, and each of them finds a violation."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import places
import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("importlinter") is None, reason="needs import-linter: the extra dev"
)


def lint_imports(folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """Checks the contracts of pyproject.toml on the package in a folder."""
    code = (
        "import sys; from importlinter.cli import lint_imports; "
        "sys.exit(lint_imports(no_cache=True, is_debug_mode=False))"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def copy(tmp_path) -> pathlib.Path:
    """A copy of the package and of its contracts."""
    ignored = shutil.ignore_patterns("weights_data", "__pycache__")
    shutil.copytree(places.ROOT / "ipt_jax", tmp_path / "ipt_jax", ignore=ignored)
    shutil.copy(places.ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_package_keeps_its_layers():
    done = lint_imports(places.ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize(
    "module, line, contract, named",
    [
        (
            "images/png.py",
            "from ipt_jax.cli import flags",
            "A package imports only from packages below it",
            "ipt_jax.images.png -> ipt_jax.cli.flags",
        ),
        (
            "data/crops.py",
            "import jax",
            "Modules for making batches do not import jax",
            "ipt_jax.data.crops -> jax",
        ),
        (
            "tpu/hlo.py",
            "from ipt_jax.tpu import estimate",
            "There are no import cycles",
            "No cycles are allowed in ipt_jax.tpu",
        ),
    ],
)
def test_a_violation_is_found(copy, module, line, contract, named):
    path = copy / "ipt_jax" / module
    path.write_text(path.read_text() + f"\n{line}\n")
    done = lint_imports(copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{contract} BROKEN" in done.stdout and named in done.stdout


def test_a_package_without_a_layer_is_found(copy):
    (copy / "ipt_jax" / "utils.py").write_text('"""A module that no layer has."""\n')
    done = lint_imports(copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "utils" in done.stdout
