"""Packing a folder, reading it back, and checking sets."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import zlib

import numpy as np
import places
import pytest
from data_sets import batches, jpeg, write_tfds

from ipt_jax.cli import data as prepare
from ipt_jax.config.loading import complete
from ipt_jax.data.prepare import inspect as checking
from ipt_jax.data.prepare import pack as packing
from ipt_jax.data.prepare.inspect import check, find
from ipt_jax.data.prepare.pack import pack
from ipt_jax.data.sources.folder import Folder
from ipt_jax.data.sources.packed import DESCRIPTION, Packed
from ipt_jax.data.sources.source import Source, open_source
from ipt_jax.data.sources.tfds import Tfds
from ipt_jax.errors import DataError, DecodeError


def parsed(module: object, *arguments: str) -> argparse.Namespace:
    top = argparse.ArgumentParser()
    module.add_parser(top.add_subparsers(required=True))
    return top.parse_args(arguments)


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


def test_a_packed_set_reads_as_the_folder_does(folder, packed):
    for split, held_out in (("all", 0), ("train", 3), ("eval", 3), ("train", 0)):
        there, here = Folder(folder, split, held_out), Packed(packed, split, held_out)
        assert isinstance(here, Source) and len(here) == len(there)
        order = np.random.default_rng(0).permutation(len(here))
        assert [here[int(i)] for i in order] == [there[int(i)] for i in order]
        assert [here.name(i) for i in range(len(here))] == [
            there.name(i) for i in range(len(there))
        ]
        for i in (-1, len(here)):
            with pytest.raises(IndexError):
                here[i]
    assert len(list(packed.glob("*.array_record"))) > 2


def test_batches_are_those_of_the_folder(folder, packed):
    config = complete({"data": dict(source="packed", dir=str(packed), held_out=2)}).data
    one, other = batches(Folder(folder, "train", 2))(5).batch, batches(open_source(config))(5).batch
    for name, pair in one.items():
        for key, array in pair.items():
            np.testing.assert_array_equal(other[name][key], array)


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


def test_it_is_known_by_content_and_pickles_small(folder, packed, tmp_path):
    print_of = Packed(packed, "train", 2).fingerprint()
    shutil.move(packed, tmp_path / "moved")
    moved = Packed(tmp_path / "moved", "train", 2)
    assert moved.fingerprint() == print_of != Packed(tmp_path / "moved", "train", 3).fingerprint()
    moved[0]
    data = pickle.dumps(moved)
    assert len(data) < 1000
    again = pickle.loads(data)
    assert again[4] == moved[4] and again.name(4) == moved.name(4)
    (folder / "0.jpg").write_bytes(jpeg(99))
    pack(folder, tmp_path / "changed")
    assert Packed(tmp_path / "changed").fingerprint() != Packed(tmp_path / "moved").fingerprint()


def test_unreadable_pictures_are_left_out_and_named(folder, tmp_path, capsys):
    (folder / "3.jpg").write_bytes(b"no picture")
    (folder / "deep/er/1.jpg").write_bytes(jpeg(1)[:1500])
    options = parsed(
        prepare, "prepare", "folder", f"{folder}/", "--shard-mb", "0.01", "--threads", "2"
    )
    assert options.run(options) == 1
    printed = capsys.readouterr().out
    assert "10 pictures" in printed and "2 picture(s) cannot be read" in printed
    assert "3.jpg: not a JPEG, PNG" in printed and "deep/er/1.jpg: the JPEG is truncated" in printed
    assert len(Packed(f"{folder}.packed")) == 10


def test_what_cannot_be_packed_says_why(folder, packed, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="exists already; remove it, or name another"):
        pack(folder, packed)
    with pytest.raises(DataError, match="folder not found"):
        pack(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"none of the 1 pictures can be read: a\.png"):
        pack(tmp_path / "bad", tmp_path / "out")
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 90, 10))
    with pytest.raises(DataError, match=r"11 pictures of 0\.00 GB do not fit"):
        pack(folder, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad", "packed", "photos"]


FULL = """
import resource, signal, sys
from ipt_jax.data.pack import pack
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
    with pytest.raises(OSError, match="11 pictures were not written as they are"):
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


def test_damaged_sets_say_what_is_wrong(packed, tmp_path):
    def broken(change: object) -> str:
        shutil.rmtree(tmp_path / "broken", ignore_errors=True)
        shutil.copytree(packed, tmp_path / "broken")
        change(tmp_path / "broken")
        with pytest.raises(DataError) as error:
            Packed(tmp_path / "broken")
        assert "\n" not in str(error.value)
        return str(error.value)

    def described(**changes: object) -> object:
        def change(folder: pathlib.Path) -> None:
            path = folder / DESCRIPTION
            path.write_text(json.dumps(json.loads(path.read_text()) | changes))

        return change

    shards = sorted(path.name for path in packed.glob("*.array_record"))
    shard = shards[1]
    assert f"lacks 1 of its {len(shards)} files: {shard} (missing)" in broken(
        lambda f: (f / shard).unlink()
    )
    assert "0 bytes instead of" in broken(lambda f: (f / shard).write_bytes(b""))
    assert "no packed.json; the folder holds pictures-00000" in broken(
        lambda f: (f / DESCRIPTION).unlink()
    )
    assert "does not describe a packed set (JSONDecodeError" in broken(
        lambda f: (f / DESCRIPTION).write_text("{")
    )
    assert "does not describe a packed set (KeyError" in broken(
        lambda f: (f / DESCRIPTION).write_text("{}")
    )
    assert "is of version 2; this version of ipt_jax reads up to 1" in broken(described(version=2))
    assert "is of format 'mine'" in broken(described(format="mine"))
    assert "counts its pictures differently" in broken(described(names=["a"]))
    with pytest.raises(DataError, match=r"that folder does not exist.* ipt data prepare folder"):
        Packed(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"data\.dir is empty"):
        Packed("")


def test_a_corrupt_record_is_an_unreadable_picture(packed, tmp_path):
    directory = write_tfds(tmp_path, [jpeg(i) for i in range(6)], shards=1)
    for path, source in (
        (next(directory.glob("*.array_record-*")), Tfds("tiny", "train", tmp_path)),
        (sorted(packed.glob("*.array_record"))[0], Packed(packed)),
    ):
        data = bytearray(path.read_bytes())
        # Shortly before the padding at the end: in the last picture
        data[data.index(b"\0" * 1000) - 300] ^= 1
        path.write_bytes(data)
        bad = []
        for i in range(len(source)):
            try:
                source[i]
            except DecodeError as error:
                assert "cannot read" in str(error) and "hash mismatch" in str(error)
                bad.append(source.name(i))
        assert len(bad) == 1 and source.fingerprint()
        which = batches(source)
        items = [which(step) for step in range(6)]
        assert {text.split(": ")[0] for item in items for text in item.replaced} == set(bad)
        assert list(check(source)["unreadable"]) == bad


# Checking


def test_check_counts_everything(folder, capsys, tmp_path):
    import cv2

    (folder / "small.png").write_bytes(
        cv2.imencode(".png", np.zeros((5, 300, 3), np.uint8))[1].tobytes()
    )
    (folder / "large.webp").write_bytes(
        cv2.imencode(".webp", np.zeros((300, 400, 3), np.uint8))[1].tobytes()
    )
    options = parsed(
        checking, "check", str(folder), "--json", str(tmp_path / "report.json"), "--crop", "120"
    )
    assert options.run(options) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["pictures"] == 13 and report["formats"] == {"JPEG": 11, "WebP": 1, "PNG": 1}
    assert report["sides"] == {"shorter": [5, 120, 300], "longer": [150, 150, 400]}
    assert report["smaller_than_crop"] == 1 and report["unreadable"] == {}
    assert "all can be read" in capsys.readouterr().out


def test_check_names_what_cannot_be_read_and_fails(folder, packed, tmp_path, capsys):
    (folder / "2.jpg").write_bytes(b"")
    options = parsed(checking, "check", str(folder))
    assert options.run(options) == 1
    assert "1 cannot be read:\n  2.jpg: the picture is empty" in capsys.readouterr().out
    description = json.loads((packed / DESCRIPTION).read_text())
    description["crc32"][3] ^= 1
    (packed / DESCRIPTION).write_text(json.dumps(description))
    assert check(Packed(packed))["unreadable"] == {
        description["names"][3]: "not what was packed: wrong checksum"
    }
    many = {
        "pictures": 60,
        "bytes": 0,
        "formats": {},
        "sides": {},
        "crop": 192,
        "smaller_than_crop": 0,
        "unreadable": {f"{i}.jpg": "gone" for i in range(60)},
    }
    assert list(checking.lines("x", many))[-1] == "  and 10 more (--json FILE lists all)"


def test_check_finds_what_a_name_means(folder, packed, tmp_path):
    write_tfds(tmp_path / "sets", [jpeg(i) for i in range(3)])
    assert isinstance(find(str(folder), None), Folder)
    assert isinstance(find(str(packed), None), Packed)
    assert len(find("tiny", str(tmp_path / "sets"), "train[:2]")) == 2
    with pytest.raises(
        DataError,
        match=r"is a TFDS set; name it and say where it is: ipt data check tiny --data-dir",
    ):
        find(str(tmp_path / "sets/tiny/1.0.0"), None)
    with pytest.raises(DataError, match="is not a folder; name a folder of pictures"):
        find(str(tmp_path / "none"), None, "train")
    with pytest.raises(DataError, match="TFDS set nine is not in"):
        find("nine", str(tmp_path / "sets"), "train")


def test_a_split_of_a_folder_is_refused(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DataError, match="which has no splits"):
        find(str(tmp_path / "pictures"), None, "train")
