"""Local and bucket paths."""

from __future__ import annotations

import pathlib

import pytest
from etils import epath

from ipt_jax import storage


@pytest.mark.parametrize("kind", [pathlib.Path, epath.Path])
def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path, kind):
    for text in ("first", "zw\u00f6lf"):
        storage.replace_text(kind(tmp_path / "a.json"), text)
        assert (tmp_path / "a.json").read_text(encoding="utf-8") == text
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "a"
    storage.replace_text(file, "old")
    with pytest.raises(TypeError):
        storage.replace_bytes(file, None)
    assert file.read_text() == "old"


def test_remote_paths_are_recognised(tmp_path):
    assert storage.is_remote("gs://bucket/run")
    assert not storage.is_remote(epath.Path(tmp_path))
