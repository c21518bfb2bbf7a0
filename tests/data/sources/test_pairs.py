"""Pairs of images in folders: layouts, scale, crops, and faulty sets."""

from __future__ import annotations

import logging
import os
import pathlib
import pickle

import cv2
import numpy as np
import pytest
import small

from ipt_jax.config import loading as configs
from ipt_jax.config import resolve
from ipt_jax.data import crops, pipeline
from ipt_jax.data.sources.pairs import Pairs, _names_of_split, decode_pair
from ipt_jax.data.sources.source import open_source
from ipt_jax.degradations.paired import Paired
from ipt_jax.errors import ConfigError, DataError
from ipt_jax.tasks import Task, make_tasks
from ipt_jax.train import data as data_module
from ipt_jax.train.validation import held_out


def write(path: pathlib.Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def make_pairs(
    folder: pathlib.Path,
    count: int = 4,
    scale: int = 1,
    names: tuple[str, str] = ("input", "target"),
    size=(40, 50),
):
    """Writes pairs whose pixels tell their position and their image.

    lq = 50 + row + column; hq is its enlargement plus 1 plus the number of the image.
    """
    for i in range(count):
        y, x = np.mgrid[: size[0], : size[1]]
        lq = np.repeat((50 + y + x)[..., None], 3, axis=2).astype(np.uint8)
        hq = lq.repeat(scale, 0).repeat(scale, 1) + np.uint8(i + 1)
        write(folder / names[0] / f"p{i}.png", lq)
        write(folder / names[1] / f"p{i}.png", hq)
    return folder


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_scale_is_found_and_crops_lie_on_each_other(scale, tmp_path):
    source = Pairs(str(make_pairs(tmp_path, scale=scale)))
    assert len(source) == 4 and source.scale == scale and source.name(2) == "p2"
    assert pickle.loads(pickle.dumps(source)).fingerprint() == source.fingerprint()
    task = Task("t", scale, Paired(scale))
    for seed in range(8):
        rng = np.random.default_rng(seed)
        lq, hq = crops.cut_pair(decode_pair(source[1], scale), task, 16, rng, flips=True)
        assert lq.shape == (16, 16, 3) and hq.shape == (16 * scale, 16 * scale, 3)
        np.testing.assert_array_equal(lq.repeat(scale, 0).repeat(scale, 1) + 2, hq)
    # A crop that is larger than the images.
    lq, hq = crops.cut_pair(decode_pair(source[0], scale), task, 64, np.random.default_rng(0))
    np.testing.assert_array_equal(lq.repeat(scale, 0).repeat(scale, 1) + 1, hq)


def test_batches_and_held_out_pictures_are_the_pairs_own(tmp_path):
    make_pairs(tmp_path, count=6, scale=2)
    task = {"name": "mine", "degradation": "pairs"}
    data = {"source": "pairs", "dir": str(tmp_path), "held_out": 2, "flips": True}
    config = configs.complete(
        {"model": small.MODEL, "tasks": [task], "batch_size": 8, "data": data}
    )
    config, source = data_module.open_data(config)
    assert config.tasks[0]["scale"] == 2 and len(source) == 4
    batches = pipeline.make_batches(source, make_tasks(config.tasks), config)
    item = batches(3)
    lq, hq = item.batch["mine"]["lq"], item.batch["mine"]["hq"]
    assert (
        lq.dtype == np.uint8
        and lq.shape == (8, 16, 16, 3)
        and hq.shape == (8, 32, 32, 3)
        and not item.replaced
    )
    assert {int(n) for n in np.unique(hq - lq.repeat(2, 1).repeat(2, 2))} <= {1, 2, 3, 4, 5, 6}
    np.testing.assert_array_equal(batches(3).batch["mine"]["hq"], hq)
    pictures = held_out(resolve.resolve(config), 4, 31)
    assert len(pictures) == 2 and not {p.name for p in pictures} & {
        source.name(i) for i in range(4)
    }
    for picture in pictures:
        assert picture.lq is not None and picture.hq.shape[0] // 2 == picture.lq.shape[0]
        small_hq = picture.lq.repeat(2, 0).repeat(2, 1)
        assert len(np.unique(picture.hq[: small_hq.shape[0], : small_hq.shape[1]] - small_hq)) == 1


def test_layouts_of_the_benchmarks(tmp_path):
    for scene in ("a", "b"):
        make_pairs(tmp_path / "gopro" / scene, 2, names=("blur", "sharp"))
    assert len(Pairs(str(tmp_path / "gopro"))) == 4
    make_pairs(tmp_path / "rain", 3, names=("rainy", "clean"))
    assert len(Pairs(str(tmp_path / "rain"), "train", 1)) == 2
    make_pairs(tmp_path / "sr", 3, scale=2, names=("LR_bicubic/X2", "HR"))
    for i in range(3):
        write(tmp_path / "sr/LR_bicubic/X4" / f"p{i}.png", np.zeros((20, 25, 3), np.uint8))
    assert Pairs(str(tmp_path / "sr"), scale=4).scale == 4
    with pytest.raises(DataError, match=r"x2, x4; the task is for one scale"):
        Pairs(str(tmp_path / "sr"))


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no folder is named"):
        Pairs("")
    with pytest.raises(DataError, match=r"there is no such folder"):
        Pairs(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no pairs in a layout that is known.*there is: nothing"):
        Pairs(str(tmp_path / "empty"))
    folder = make_pairs(tmp_path / "a")
    with pytest.raises(DataError, match=r"the pairs are x1; the task is x2"):
        open_source({"source": "pairs", "dir": str(folder), "scale": 2})
    write(folder / "input" / "extra.png", np.zeros((40, 50, 3), np.uint8))
    with pytest.raises(DataError, match=r"pairs input/ \+ target/: no clean image for extra;"):
        Pairs(str(folder))
    folder = make_pairs(tmp_path / "b")
    (folder / "input" / "p2.png").unlink()
    with pytest.raises(DataError, match=r"no degraded image for p2"):
        Pairs(str(folder))
    folder = make_pairs(tmp_path / "c")
    write(folder / "input" / "p3.png", np.zeros((40, 49, 3), np.uint8))
    with pytest.raises(
        DataError,
        match=r"1 pair.s. whose sizes do not match at x1: .*3.png \(49x40\) and .*3.png \(50x40\)",
    ):
        Pairs(str(folder))
    with pytest.raises(DataError, match=r"held_out=4 must be between 0 and 3"):
        Pairs(str(make_pairs(tmp_path / "d")), "train", 4)
    with pytest.raises(ConfigError, match=r"tasks must be one task, where data.source=pairs"):
        configs.complete(
            {"tasks": ["derain", "denoise30"], "batch_size": 8, "data": {"source": "pairs"}}
        )
    with pytest.raises(DataError, match=r"needs pairs"):
        plain = small.config(
            tasks=[{"name": "mine", "degradation": "pairs", "scale": 1}], batch_size=8
        )
        pipeline.make_batches(open_source(plain["data"]), make_tasks(plain["tasks"]), plain)


def test_files_of_other_formats_are_named(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("ipt_jax"), "propagate", True)
    folder = make_pairs(tmp_path)
    for side in ("input", "target"):
        (folder / side / "p9.heic").write_bytes(b"x")
    task = {"name": "mine", "degradation": "pairs"}
    data = {"source": "pairs", "dir": str(folder), "held_out": 1}
    data_module.open_data(
        configs.complete({"model": small.MODEL, "tasks": [task], "batch_size": 8, "data": data})
    )
    assert (
        "2 files of other formats are left out: 2 .heic (input/p9.heic, target/p9.heic)"
        in caplog.text
    )


def test_a_damaged_pair_gives_way_to_another(tmp_path):
    folder = make_pairs(tmp_path, count=5)
    (folder / "input" / "p1.png").write_bytes(b"\x89PNG torn")
    source = Pairs(str(folder))
    batches = pipeline.Batches(
        source, (Task("t", 1, Paired(1)),), seed=0, batch_size=10, tile=16, group=2
    )
    item = batches(0)
    assert len(item.replaced) >= 1 and all(text.startswith("p1: ") for text in item.replaced)


def test_a_pair_that_is_no_regular_file_gives_way_to_another(tmp_path):
    folder = make_pairs(tmp_path, count=5)
    (folder / "input" / "p1.png").unlink()
    os.mkfifo(folder / "input" / "p1.png")
    source = Pairs(str(folder))
    assert source.fingerprint()
    batches = pipeline.Batches(
        source, (Task("t", 1, Paired(1)),), seed=0, batch_size=10, tile=16, group=2
    )
    item = batches(0)
    assert set(item.replaced) == {"p1: it is a named pipe, not a regular file"}


def test_the_fingerprint_is_of_both_images_of_a_pair(tmp_path):
    """A file of the same size with other bytes in its middle is other data."""
    folder = make_pairs(tmp_path / "pairs", scale=2)
    before = Pairs(folder).fingerprint()
    assert Pairs(folder).fingerprint() == before
    for name in ("target/p2.png", "input/p1.png"):
        file = folder / name
        whole = file.read_bytes()
        middle = len(whole) // 2
        file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        assert Pairs(folder).fingerprint() != before, name
        file.write_bytes(whole)
    assert Pairs(folder).fingerprint() == before


@pytest.mark.parametrize("scale", [2, 3])
def test_held_out_crops_of_both_images_show_the_same_place(tmp_path, scale):
    """The centre of an image of odd sides does not begin at a multiple of the scale."""
    folder = make_pairs(tmp_path, scale=scale, size=(33, 37))
    config = configs.complete(
        {
            "model": small.MODEL,
            "tasks": [{"name": "mine", "degradation": "pairs"}],
            "batch_size": 8,
            "data": {"source": "pairs", "dir": str(folder), "held_out": 2},
        }
    )
    config, _ = data_module.open_data(config)
    for size in (scale * 7, scale * 10):
        images = held_out(resolve.resolve(config), 2, size)
        assert len(images) == 2
        for image in images:
            assert image.lq is not None and image.hq.shape == (size, size, 3)
            enlarged = image.lq.repeat(scale, 0).repeat(scale, 1)
            assert np.array_equal(image.hq, enlarged + np.uint8(int(image.name[1:]) + 1))


@pytest.mark.parametrize("held_out", [1, 2, 3, 4])
def test_no_clean_image_is_both_held_out_and_trained_on(held_out):
    """A clean image may belong to several pairs, one for each degraded image."""
    hq = {f"{i}_{k}": pathlib.Path(f"/clean/{i}.png") for i in range(4) for k in range(2)}
    names = {split: _names_of_split(hq, split, held_out) for split in ("train", "eval", "all")}
    assert names["all"] == list(hq) and len(names["eval"]) == held_out
    clean = {split: {hq[name] for name in chosen} for split, chosen in names.items()}
    assert clean["train"] and clean["train"].isdisjoint(clean["eval"])
    # With an odd number, the other pair of a held-out image is left out of both.
    assert len(names["train"]) == 8 - 2 * len(clean["eval"])
