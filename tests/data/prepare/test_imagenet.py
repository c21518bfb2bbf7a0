"""`ipt data prepare imagenet2012`: checks of the archives, and builds from stand-ins (slow)."""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

import places
import pytest
from data_sets import jpeg, write_tfds

from ipt_jax.cli import data as cli
from ipt_jax.data.prepare import imagenet
from ipt_jax.data.sources.tfds import Tfds
from ipt_jax.errors import DataError

needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None,
    reason="TensorFlow is not installed: pip install -e '.[prepare]'",
)


def tar(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


@pytest.fixture
def archives(tmp_path) -> pathlib.Path:
    """Makes stand-ins for the two archives, with 12 and 5 images."""
    folder = tmp_path / "archives"
    folder.mkdir()
    synsets = {
        f"{wnid}.tar": tar({f"{wnid}_{i}.JPEG": jpeg(7 * k + i) for i in range(4)})
        for k, wnid in enumerate(("n01440764", "n01494475", "n01514859"))
    }
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar(synsets))
    (folder / "ILSVRC2012_img_val.tar").write_bytes(
        tar({f"ILSVRC2012_val_{i:08}.JPEG": jpeg(50 + i) for i in range(1, 6)})
    )
    return folder


def options(archives: pathlib.Path, data_dir: pathlib.Path, *more: str) -> argparse.Namespace:
    top = argparse.ArgumentParser()
    cli.add_parser(top.add_subparsers(required=True))
    return top.parse_args(
        [
            "prepare",
            "imagenet2012",
            "--manual-dir",
            str(archives),
            "--data-dir",
            str(data_dir),
            *more,
        ]
    )


def test_whole_archives_pass_with_a_note_on_their_size(archives):
    (note,) = imagenet.check_archive(archives, "train")
    assert note == "note: ILSVRC2012_img_train.tar has 3 members; ImageNet's own has 1000"
    (note,) = imagenet.check_archive(archives, "validation")
    assert note == "note: ILSVRC2012_img_val.tar has 5 members; ImageNet's own has 50000"


def refused(archives: pathlib.Path, split: str = "train") -> str:
    with pytest.raises(DataError) as error:
        imagenet.check_archive(archives, split)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_archives_say_what_is_there(archives, tmp_path):
    (archives / "ILSVRC2012_img_train.tar").rename(archives / "ilsvrc2012_img_train (1).tar")
    message = refused(archives)
    assert (
        "has no ILSVRC2012_img_train.tar: the folder holds ILSVRC2012_img_val.tar, "
        "ilsvrc2012_img_train (1).tar" in message
    )
    assert (
        "is it 'ilsvrc2012_img_train (1).tar'? Then rename it" in message
        and "image-net.org" in message
    )
    assert "that folder does not exist" in refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "the folder holds nothing" in refused(tmp_path / "empty")


@pytest.mark.parametrize("split", imagenet.ARCHIVES)
def test_truncated_archives_are_refused_wherever_they_end(archives, split):
    path = archives / imagenet.ARCHIVES[split][0]
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    ends = [
        members[-1].offset_data + members[-1].size // 2,
        members[1].offset_data + 300,
        members[-1].offset + 100,
        members[-1].offset_data + (members[-1].size + 511) // 512 * 512,
    ]
    for end in ends:
        path.write_bytes(whole[:end])
        assert "is truncated" in refused(archives, split)
    path.write_bytes(whole[:200])
    assert "download it again" in refused(archives, split)


def test_archives_of_something_else_are_refused(archives):
    train, validation = (archives / name for name, *_ in imagenet.ARCHIVES.values())
    shutil.copy(validation, train)
    assert "holds 'ILSVRC2012_val_00000001.JPEG', which is not of the train archive" in refused(
        archives
    )
    validation.write_bytes(b"<html>please log in</html>" * 100)
    assert "is not a tar archive" in refused(archives, "validation")
    validation.write_bytes(b"")
    assert "download it again" in refused(archives, "validation")


def test_no_room_and_no_tensorflow_are_told_before_anything_is_written(
    archives, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(DataError, match=r"needs TensorFlow .*: pip install -e '\.\[prepare\]'"):
        cli.prepare_imagenet(options(archives, tmp_path / "out"))
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1, 1))
    with pytest.raises(
        DataError, match=r"building imagenet2012 takes up to 0\.0 GB; .* has 0\.0 GB free"
    ):
        imagenet.check_room(archives, str(tmp_path / "out"), ("train",))
    assert not (tmp_path / "out").exists()


def test_a_set_that_is_there_is_checked_and_not_built_again(tmp_path, capsys):
    pictures = [jpeg(i) for i in range(5)]
    write_tfds(tmp_path, pictures, name="imagenet2012")
    chosen = options(tmp_path / "no archives", tmp_path, "--split", "train")
    assert chosen.run(chosen) == 0
    printed = capsys.readouterr().out
    assert (
        "already; nothing to build" in printed
        and "train: 5 images; 5 of them decoded, 0 of these" in printed
    )
    with pytest.raises(DataError, match="was built without one of the splits"):
        imagenet.prepare(str(tmp_path / "no archives"), str(tmp_path), ("train", "validation"))
    write_tfds(tmp_path / "bad", [*pictures, pictures[0][:900]], name="imagenet2012")
    chosen = options(tmp_path, tmp_path / "bad", "--split", "train")
    assert chosen.run(chosen) == 1
    assert "imagenet2012/train[5] (5.jpg): the JPEG is truncated" in capsys.readouterr().out


def run(
    archives: pathlib.Path, data_dir: pathlib.Path, *more: str, before: str = ""
) -> subprocess.CompletedProcess[str]:
    code = (
        f"{before}\nimport argparse, sys\nfrom ipt_jax.cli import data\n"
        "top = argparse.ArgumentParser()\n"
        "data.add_parser(top.add_subparsers(required=True))\n"
        "options = top.parse_args(sys.argv[1:])\n"
        "sys.exit(options.run(options))\n"
    )
    arguments = [
        "prepare",
        "imagenet2012",
        "--manual-dir",
        str(archives),
        "--data-dir",
        str(data_dir),
        *more,
    ]
    environment = os.environ | {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": str(places.ROOT),
    }
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=300
    )


@pytest.mark.slow
@needs_tensorflow
def test_both_archives_become_a_set_that_is_read_without_tensorflow(archives, tmp_path):
    result = run(archives, tmp_path / "sets")
    assert result.returncode == 0, result.stderr[-3000:]
    assert (
        "train: 12 images; 12 of them decoded" in result.stdout
        and "validation: 5 images" in result.stdout
    )
    train = Tfds("imagenet2012", "train", tmp_path / "sets")
    assert {train[i] for i in range(12)} == {jpeg(7 * k + i) for k in range(3) for i in range(4)}
    assert not list((tmp_path / "sets/imagenet2012").glob("incomplete*"))
    again = run(archives, tmp_path / "sets")
    assert again.returncode == 0 and "nothing to build" in again.stdout


@pytest.mark.slow
@needs_tensorflow
def test_one_split_needs_one_archive_and_takes_no_other(archives, tmp_path):
    result = run(archives, tmp_path / "sets", "--split", "validation")
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(Tfds("imagenet2012", "validation", tmp_path / "sets")) == 5
    with pytest.raises(DataError, match="has no split 'train'; its splits: validation"):
        Tfds("imagenet2012", "train", tmp_path / "sets")


@pytest.mark.slow
@needs_tensorflow
def test_a_build_that_fails_leaves_nothing(archives, tmp_path):
    limit = (
        "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))\n"
    )
    result = run(archives, tmp_path / "sets", before=limit)
    assert result.returncode == 1 and "OSError: TFDS could not build imagenet2012" in result.stderr
    assert not [path for path in (tmp_path / "sets").rglob("*") if path.is_file()]
