"""Fixtures of the data tests: a folder of JPEGs, and the same folder packed."""

from __future__ import annotations

import pathlib

import pytest
from data_sets import jpeg

from ipt_jax.data.prepare.pack import pack


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """Eleven JPEGs in two folders."""
    root = tmp_path / "photos"
    for i in range(11):
        path = root / ("deep/er" if i % 2 else "") / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(i))
    return root


@pytest.fixture
def packed(folder, tmp_path) -> pathlib.Path:
    pack(folder, tmp_path / "packed", shard_bytes=10_000)
    return tmp_path / "packed"
