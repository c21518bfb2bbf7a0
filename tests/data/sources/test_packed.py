"""Packed sets: read as the folder that was packed, and refused when damaged."""

from __future__ import annotations

import json
import os
import pathlib
import pickle
import shutil

import numpy as np
import pytest
from data_sets import batches, jpeg, write_tfds

from ipt_jax.config.loading import complete
from ipt_jax.data.prepare.inspect import check_source
from ipt_jax.data.prepare.pack import pack
from ipt_jax.data.sources.folder import Folder
from ipt_jax.data.sources.packed import DESCRIPTION, Packed
from ipt_jax.data.sources.source import Source, open_source
from ipt_jax.data.sources.tfds import Tfds
from ipt_jax.errors import DataError, DecodeError


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
    assert "counts its images differently" in broken(described(names=["a"]))
    with pytest.raises(DataError, match=r"that folder does not exist.* ipt data prepare folder"):
        Packed(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"data\.dir is empty"):
        Packed("")


def test_a_description_that_is_a_pipe_is_refused(packed, tmp_path):
    shutil.copytree(packed, tmp_path / "pipe")
    (tmp_path / "pipe" / DESCRIPTION).unlink()
    os.mkfifo(tmp_path / "pipe" / DESCRIPTION)
    with pytest.raises(DataError, match=f"{DESCRIPTION}: it is a named pipe, not a regular file"):
        Packed(tmp_path / "pipe")


def test_a_corrupt_record_is_an_unreadable_picture(packed, tmp_path):
    directory = write_tfds(tmp_path, [jpeg(i) for i in range(6)], shards=1)
    for path, source in (
        (next(directory.glob("*.array_record-*")), Tfds("tiny", "train", tmp_path)),
        (sorted(packed.glob("*.array_record"))[0], Packed(packed)),
    ):
        data = bytearray(path.read_bytes())
        # Shortly before the padding at the end lies the last image.
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
        assert list(check_source(source)["unreadable"]) == bad
