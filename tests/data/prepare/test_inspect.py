"""Checking data sets, and finding the one that a user names."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
from data_sets import jpeg, write_tfds

from ipt_jax.cli import data as cli
from ipt_jax.data.crops import why_too_narrow
from ipt_jax.data.prepare.inspect import check_source, find_source, report_lines
from ipt_jax.data.sources.folder import Folder
from ipt_jax.data.sources.packed import DESCRIPTION, Packed
from ipt_jax.errors import DataError


def parsed(*arguments: str) -> argparse.Namespace:
    top = argparse.ArgumentParser()
    cli.add_parser(top.add_subparsers(required=True))
    return top.parse_args(arguments)


def test_check_counts_everything(folder, capsys, tmp_path):
    import cv2

    (folder / "small.png").write_bytes(
        cv2.imencode(".png", np.zeros((5, 300, 3), np.uint8))[1].tobytes()
    )
    (folder / "large.webp").write_bytes(
        cv2.imencode(".webp", np.zeros((300, 400, 3), np.uint8))[1].tobytes()
    )
    options = parsed("check", str(folder), "--json", str(tmp_path / "report.json"), "--crop", "120")
    assert options.run(options) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["pictures"] == 13 and report["formats"] == {"JPEG": 11, "WebP": 1, "PNG": 1}
    assert report["sides"] == {"shorter": [5, 120, 300], "longer": [150, 150, 400]}
    assert report["smaller_than_crop"] == 1 and report["unreadable"] == {}
    assert "all can be read" in capsys.readouterr().out


def test_check_names_what_cannot_be_read_and_fails(folder, packed, tmp_path, capsys):
    (folder / "2.jpg").write_bytes(b"")
    options = parsed("check", str(folder))
    assert options.run(options) == 1
    assert "1 cannot be read:\n  2.jpg: the image is empty" in capsys.readouterr().out
    description = json.loads((packed / DESCRIPTION).read_text())
    description["crc32"][3] ^= 1
    (packed / DESCRIPTION).write_text(json.dumps(description))
    assert check_source(Packed(packed))["unreadable"] == {
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
        "damaged": {},
        "other_formats": "",
        "pairs": {},
    }
    assert list(report_lines("x", many))[-1] == "  and 10 more (--json FILE lists all)"


def test_check_names_links_to_nothing_narrow_images_and_other_formats(tmp_path, capsys):
    import cv2

    (tmp_path / "a.jpg").write_bytes(jpeg(0, 60, 60))
    (tmp_path / "b.jpg").symlink_to(tmp_path / "gone.jpg")
    narrow = cv2.imencode(".png", np.zeros((3, 600, 3), np.uint8))[1].tobytes()
    (tmp_path / "narrow.png").write_bytes(narrow)
    for name in ("c.heic", "d.HEIC", "e.cr2", "notes"):
        (tmp_path / name).write_bytes(b"x")
    options = parsed("check", str(tmp_path))
    assert options.run(options) == 1
    printed = capsys.readouterr().out
    assert "2 cannot be read:\n  b.jpg: a link to a file that does not exist\n" in printed
    # Training calls it unreadable with the same words.
    too_narrow = why_too_narrow(3, 600, 192)
    assert "600x3 pixels are too narrow" in too_narrow and f"narrow.png: {too_narrow}" in printed
    assert (
        "4 files of other formats are left out: 2 .heic (c.heic, d.HEIC), 1 without suffix "
        "(notes), 1 .cr2 (e.cr2); HEIC is not read: convert it" in printed
    )


def test_check_finds_what_a_name_means(folder, packed, tmp_path):
    write_tfds(tmp_path / "sets", [jpeg(i) for i in range(3)])
    assert isinstance(find_source(str(folder), None), Folder)
    assert isinstance(find_source(str(packed), None), Packed)
    assert len(find_source("tiny", str(tmp_path / "sets"), "train[:2]")) == 2
    with pytest.raises(
        DataError,
        match=r"is a TFDS set; give its name and its folder: ipt data check tiny --data-dir",
    ):
        find_source(str(tmp_path / "sets/tiny/1.0.0"), None)
    with pytest.raises(DataError, match="is not a folder; name a folder of images"):
        find_source(str(tmp_path / "none"), None, "train")
    with pytest.raises(DataError, match="TFDS set nine is not in"):
        find_source("nine", str(tmp_path / "sets"), "train")


def test_a_split_of_a_folder_is_refused(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DataError, match="which has no splits"):
        find_source(str(tmp_path / "pictures"), None, "train")
