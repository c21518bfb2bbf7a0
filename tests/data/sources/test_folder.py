"""Folders of images: what is found, how it is split and identified, and unusable folders."""

from __future__ import annotations

import os
import pathlib

import cv2
import numpy as np
import pytest

from ipt_jax.data.sources.folder import Folder
from ipt_jax.data.sources.source import Source
from ipt_jax.errors import DataError, DecodeError
from ipt_jax.images.decode import decode


def _picture(seed: int, height: int = 24, width: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    root = tmp_path / "pictures"
    files = [
        "b.png",
        "a.PNG",
        "sub/c.png",
        "sub/deep/d.png",
        ".hidden.png",
        ".cache/e.png",
        "readme.txt",
    ]
    for seed, name in enumerate(files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(_png(_picture(seed)))
    return root


def test_folder_is_recursive_sorted_and_skips_what_is_hidden(folder):
    source = Folder(folder)
    assert [source.name(i) for i in range(len(source))] == [
        "a.PNG",
        "b.png",
        "sub/c.png",
        "sub/deep/d.png",
    ]
    assert isinstance(source, Source)
    np.testing.assert_array_equal(decode(source[1]), _picture(0))
    with pytest.raises(IndexError):
        source[4]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".webp", ".bmp", ".tif", ".TIFF"])
def test_folder_knows_every_format_by_suffix(tmp_path, suffix):
    (tmp_path / f"x{suffix}").write_bytes(cv2.imencode(suffix.lower(), _picture(0))[1].tobytes())
    assert decode(Folder(tmp_path)[0]).shape == (24, 20, 3)


def test_folder_follows_links_but_not_in_circles(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "z.png").write_bytes(_png(_picture(9)))
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "sub" / "up").symlink_to(folder)
    source = Folder(folder)
    names = [source.name(i) for i in range(len(source))]
    assert names == ["a.PNG", "b.png", "link/z.png", "sub/c.png", "sub/deep/d.png"]


def test_folder_splits_are_disjoint_stable_and_barely_change_when_files_are_added(tmp_path):
    for i in range(40):
        (tmp_path / f"{i:03}.png").write_bytes(_png(_picture(i, 4, 4)))

    def names(split):
        source = Folder(tmp_path, split, held_out=5)
        return {source.name(i) for i in range(len(source))}

    train, held_out = names("train"), names("eval")
    assert len(held_out) == 5 and not train & held_out and train | held_out == names("all")
    assert names("eval") == held_out
    for i in range(40, 43):
        (tmp_path / f"{i:03}.png").write_bytes(_png(_picture(i, 4, 4)))
    assert len(names("eval") & held_out) >= 2


def test_folder_fingerprint_is_of_content_not_of_place(folder, tmp_path):
    first = Folder(folder).fingerprint()
    moved = tmp_path / "moved"
    folder.rename(moved)
    assert Folder(moved).fingerprint() == first
    before = (moved / "b.png").read_bytes()
    (moved / "b.png").write_bytes(_png(_picture(77)))
    changed = Folder(moved).fingerprint()
    assert changed != first
    (moved / "b.png").write_bytes(before)
    assert Folder(moved).fingerprint() == first
    (moved / "b.png").rename(moved / "bb.png")
    assert Folder(moved).fingerprint() not in (first, changed)
    assert Folder(moved, "train", 1).fingerprint() != Folder(moved, "eval", 1).fingerprint()


def test_folder_errors_say_what_was_looked_for_and_what_is_there(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "notes.txt").write_text("x")
    cases = {
        tmp_path / "nowhere": "folder not found: .*nowhere",
        folder / "b.png": "not a folder: .*b.png",
        empty: r"no images \(.png, .*empty: it is empty",
        texts: r"no images \(.png, .*found only notes.txt",
        "": "data.dir is empty",
        "gs://bucket/x": "folders must be local",
    }
    for directory, match in cases.items():
        with pytest.raises(DataError, match=match) as error:
            Folder(directory)
        assert "\n" not in str(error.value)


def test_folder_fingerprint_counts_every_byte(tmp_path):
    (tmp_path / "a.bmp").write_bytes(b"\0" * 20_000)
    before = Folder(tmp_path).fingerprint()
    (tmp_path / "a.bmp").write_bytes(b"\0" * 20_001)
    assert Folder(tmp_path).fingerprint() != before


@pytest.mark.parametrize(
    ("split", "held_out", "match"),
    [
        ("train", 4, "held_out=4 .* 4 images"),
        ("eval", 0, "held_out=0 leaves no"),
        ("all", -1, "held_out=-1"),
        ("test", 1, "unknown split 'test' .*train, eval, all"),
    ],
)
def test_folder_refuses_impossible_splits(folder, split, held_out, match):
    with pytest.raises(DataError, match=match):
        Folder(folder, split, held_out)


def test_folder_file_that_vanishes_is_named(folder):
    source = Folder(folder)
    (folder / "b.png").unlink()
    with pytest.raises(DataError, match=r"cannot read b\.png"):
        source[1]
    with pytest.raises(DataError, match=r"cannot read b\.png"):
        source.fingerprint()


def test_a_link_to_nothing_is_an_image_that_cannot_be_read(folder):
    before = Folder(folder).fingerprint()
    (folder / "z.png").symlink_to(folder / "gone.png")
    source = Folder(folder)
    assert source.name(len(source) - 1) == "z.png"
    with pytest.raises(DecodeError, match="a link to a file that does not exist"):
        source[len(source) - 1]
    dangling = source.fingerprint()
    assert dangling != before
    # With its target, the link is another image.
    (folder / "gone.png").write_bytes(_png(_picture(9)))
    assert Folder(folder).fingerprint() != dangling
    # A file that vanishes while a run reads it is a fault of the storage.
    (folder / "b.png").unlink()
    with pytest.raises(DataError, match=r"cannot read b\.png"):
        source[[source.name(i) for i in range(len(source))].index("b.png")]


def test_files_of_other_formats_are_described(folder):
    assert Folder(folder).left_out.startswith("1 file of another format is left out: 1 .txt")


def test_what_is_no_regular_file_counts_as_an_unreadable_image(folder):
    (folder / "b.png").unlink()
    os.mkfifo(folder / "b.png")
    source = Folder(folder)
    with pytest.raises(DecodeError, match="it is a named pipe, not a regular file"):
        source[1]
    assert source.fingerprint() == Folder(folder).fingerprint()
