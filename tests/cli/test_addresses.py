"""Addresses of object stores on the command line: used, or refused in one line."""

from __future__ import annotations

import places
import pytest

import ipt_jax
from ipt_jax.cli.app import main
from ipt_jax.errors import ConfigError

UNSUPPORTED = ("s3", "az", "abfs", "file")
TRAIN = ("pretrain", "--config=configs/demo.py", "--config.devices=1")


@pytest.mark.parametrize("scheme", UNSUPPORTED)
@pytest.mark.parametrize(
    "words",
    [
        (*TRAIN, "--workdir=ADDRESS"),
        (*TRAIN, "--workdir=run", "--config.init_from=ADDRESS"),
        (*TRAIN, "--workdir=run", "--config.branch_from=ADDRESS@5"),
        (*TRAIN, "--workdir=run", "--config.data.source=packed", "--config.data.dir=ADDRESS"),
        (
            *(*TRAIN, "--workdir=run", "--config.data.source=tfds"),
            *("--config.data.name=cifar10", "--config.data.dir=ADDRESS"),
        ),
        ("data", "check", "ADDRESS"),
        ("data", "check", "cifar10", "--data-dir", "ADDRESS"),
        ("restore", "setup.py", "--task", "sr2", "--weights", "ADDRESS"),
        ("export", "--weights", "ADDRESS@best", "--format", "npz", "--out", "x.npz"),
    ],
)
def test_another_store_is_refused_by_name(words, scheme, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(places.ROOT / "configs")
    (tmp_path / "setup.py").symlink_to(places.ROOT / "setup.py")
    before = set(tmp_path.iterdir())
    assert main([word.replace("ADDRESS", f"{scheme}://store/folder") for word in words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"{scheme}://store/folder" in line and f"{scheme}:// is not supported" in line
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "--weights", "x", "--data", ".", "--json", "gs://b/a"),
        ("evaluate", "--weights", "x", "--data", ".", "--report", "gs://b/a.html"),
        ("evaluate", "--weights", "x", "--data", "gs://b/a"),
        ("restore", "gs://b/a.png", "--task", "sr2"),
        ("restore", "a.png", "gs://b/a.png", "--task", "sr2"),
        ("restore", "a.png", "--task", "sr2", "-o", "gs://b/a"),
        ("export", "--weights", "x", "--format", "npz", "--out", "gs://b/a.npz"),
        ("import", "gs://b/a.pt", "--out", "a"),
        ("data", "prepare", "folder", "a", "--out", "gs://b/a"),
        ("data", "preview", "--config=configs/demo.py", "-o", "gs://b/a.png"),
        ("bench", "restore", "--weights", "x", "--json", "gs://b/a.json"),
    ],
)
def test_an_address_is_refused_where_only_a_local_path_is_possible(
    words, tmp_path, monkeypatch, capsys
):
    """`--json gs://b/a` wrote a local file, in a new folder "gs:"."""
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("ipt: gs://b/a") and "only a local path is possible" in line
    assert not list(tmp_path.iterdir())


def test_load_refuses_another_store():
    with pytest.raises(ConfigError, match="s3:// is not supported"):
        ipt_jax.load("s3://bucket/run")
