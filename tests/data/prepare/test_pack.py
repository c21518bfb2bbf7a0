"""Packing a folder: what is written, and what is left when it fails."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import zlib

import places
import pytest
from data_sets import jpeg

from ipt_jax.cli import data as cli
from ipt_jax.data.prepare import pack as packing
from ipt_jax.data.prepare.pack import pack
from ipt_jax.data.sources.packed import DESCRIPTION, Packed
from ipt_jax.errors import DataError


def parsed(*arguments: str) -> argparse.Namespace:
    top = argparse.ArgumentParser()
    cli.add_parser(top.add_subparsers(required=True))
    return top.parse_args(arguments)


def test_the_description_says_what_is_there(folder, packed):
    description = json.loads((packed / DESCRIPTION).read_text())
    assert description["pictures"] == 11 and description["bytes"] == sum(
        p.stat().st_size for p in folder.rglob("*.jpg")
    )
    assert description["names"] == sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob("*.jpg")
    )
    assert description["crc32"] == [
        zlib.crc32((folder / name).read_bytes()) for name in description["names"]
    ]
    import hashlib

    for shard in description["shards"]:
        data = (packed / shard["file"]).read_bytes()
        assert shard["bytes"] == len(data) and shard["sha256"] == hashlib.sha256(data).hexdigest()
    assert sum(shard["pictures"] for shard in description["shards"]) == 11


def test_unreadable_pictures_are_left_out_and_named(folder, tmp_path, capsys):
    (folder / "3.jpg").write_bytes(b"no picture")
    (folder / "deep/er/1.jpg").write_bytes(jpeg(1)[:1500])
    options = parsed("prepare", "folder", f"{folder}/", "--shard-mb", "0.01", "--threads", "2")
    assert options.run(options) == 1
    printed = capsys.readouterr().out
    assert "10 images" in printed and "2 image(s) cannot be read" in printed
    assert "3.jpg: not a JPEG, PNG" in printed and "deep/er/1.jpg: the JPEG is truncated" in printed
    assert len(Packed(f"{folder}.packed")) == 10


def test_what_cannot_be_packed_says_why(folder, packed, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="exists already; remove it, or name another"):
        pack(folder, packed)
    with pytest.raises(DataError, match="folder not found"):
        pack(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"none of the 1 images can be read: a\.png"):
        pack(tmp_path / "bad", tmp_path / "out")
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 90, 10))
    with pytest.raises(DataError, match=r"11 images of 0\.00 GB do not fit"):
        pack(folder, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad", "packed", "photos"]


FULL = """
import resource, signal, sys
from ipt_jax.data.prepare.pack import pack
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    pack(sys.argv[1], sys.argv[2])
except OSError as error:
    print(error)
"""


def test_a_disk_that_fills_up_leaves_nothing(folder, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(places.ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", FULL, str(folder), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=120,
    )
    assert "failed:" in result.stdout and "nothing of it was kept" in result.stdout, result
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]


def test_what_was_written_wrong_is_noticed_and_removed(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        packing, "crc32", lambda data: zlib.crc32(data[1:]) if data == jpeg(4) else zlib.crc32(data)
    )
    assert len(pack(folder, tmp_path / "ok").unreadable) == 0
    calls = iter(range(100))
    monkeypatch.setattr(packing, "crc32", lambda data: next(calls))
    with pytest.raises(OSError, match="11 images read back differ"):
        pack(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.incomplete").exists()


def test_an_interrupted_run_is_cleared_away_by_the_next(folder, tmp_path, monkeypatch):
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(packing, "_read_back", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pack(folder, tmp_path / "out")
    assert not (tmp_path / "out.incomplete").exists()
    (tmp_path / "out.incomplete").mkdir()
    (tmp_path / "out.incomplete/pictures-00000").write_bytes(b"of a run that was killed")
    pack(folder, tmp_path / "out")
    assert len(Packed(tmp_path / "out")) == 11


def test_links_to_nothing_and_other_formats_are_named(folder, tmp_path, capsys):
    (folder / "lost.jpg").symlink_to(folder / "gone.jpg")
    (folder / "c.heic").write_bytes(b"x")
    options = parsed("prepare", "folder", str(folder), "--out", str(tmp_path / "packed"))
    assert options.run(options) == 1
    printed = capsys.readouterr().out
    assert "lost.jpg: a link to a file that does not exist" in printed
    assert "1 file of another format is left out: 1 .heic (c.heic); HEIC is not read" in printed
    assert len(Packed(tmp_path / "packed")) == 11
