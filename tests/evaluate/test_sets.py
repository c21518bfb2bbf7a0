"""Benchmark sets in their usual layouts."""

from __future__ import annotations

import pathlib

import cv2
import numpy as np
import pytest

from ipt_jax.degradations.paired import Paired
from ipt_jax.errors import DataError
from ipt_jax.evaluate.sets import find_sets, kind_of
from ipt_jax.images.resize import bicubic
from ipt_jax.tasks import TASKS
from ipt_jax.weights.task_names import task_from_name

SR2, SR3, DERAIN, DENOISE = (TASKS[name] for name in ("sr2", "sr3", "derain", "denoise50"))
DEBLUR = task_from_name("dehaze", 1)


def put(
    path: pathlib.Path,
    height: int = 20,
    width: int = 24,
    seed: int = 0,
    image: np.ndarray | None = None,
) -> np.ndarray:
    if image is None:
        image = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)
    return image


def only(root: pathlib.Path, *names: str):
    (found,) = find_sets(root, names)
    return found


def test_the_edsr_layout_with_low_resolution_files(tmp_path):
    folder = tmp_path / "benchmark" / "Set5"
    hq = put(folder / "HR" / "baby.png", 21, 25)
    put(folder / "HR" / "head.png", seed=1)
    small = put(folder / "LR_bicubic" / "X2" / "babyx2.png", 10, 12, seed=2)
    put(folder / "LR_bicubic" / "X2" / "headx2.png", 10, 12, seed=3)
    found = only(tmp_path, "set5")
    assert found.describe() == "Set5: 2 images, HR/, LR from files x2; LR made for x3 x4"
    first = next(found.pictures(SR2))
    assert first.name == "baby"
    np.testing.assert_array_equal(first.hq, hq)
    np.testing.assert_array_equal(first.lq, small)
    # The LR files are bicubic reductions.
    assert next(found.pictures(TASKS["photo2"])).lq is None
    assert next(found.pictures(SR3)).lq is None and next(found.pictures(DENOISE)).lq is None
    assert found.kinds() == {"sr"} and found.suits(DENOISE) and not found.suits(DEBLUR)


def test_the_basicsr_layout(tmp_path):
    hq = put(tmp_path / "Set14" / "GTmod12" / "lenna.png", 24, 24)
    put(tmp_path / "Set14" / "LRbicx2" / "lenna.png", image=bicubic(hq, 2))
    found = only(tmp_path, "Set14")
    np.testing.assert_array_equal(next(found.pictures(SR2)).lq, bicubic(hq, 2))


@pytest.mark.parametrize(
    "degraded, clean", [("rainy", "clean"), ("input", "target"), ("input", "gt"), ("blur", "sharp")]
)
def test_pairs_of_folders(tmp_path, degraded, clean):
    hq = put(tmp_path / "S" / clean / "2.png")
    put(tmp_path / "S" / clean / "10.png", seed=5)
    lq = put(tmp_path / "S" / degraded / "2.png", seed=1)
    put(tmp_path / "S" / degraded / "10.png", seed=6)
    found = only(tmp_path, "S")
    # Names are sorted by their numbers.
    assert [p.name for p in found.pictures(DERAIN)] == ["2", "10"]
    first = next(found.pictures(DERAIN))
    np.testing.assert_array_equal(first.hq, hq)
    np.testing.assert_array_equal(first.lq, lq)
    assert (
        found.layout.paired
        and found.suits(DEBLUR)
        and not found.suits(DENOISE)
        and not found.suits(SR2)
    )


def test_the_authors_rain_layout(tmp_path):
    folder = tmp_path / "Rain100L"
    for number in ("001", "002"):
        put(folder / f"norain-{number}.png", seed=int(number))
        put(folder / "rainy" / f"rain-{number}.png", seed=int(number) + 10)
    found = only(tmp_path, "Rain100L")
    assert found.layout.words == "pairs rainy/rain-x + norain-x" and [*found.hq] == [
        "rain-001",
        "rain-002",
    ]
    assert (
        found.hq["rain-002"].name == "norain-002.png"
        and found.layout.lq[1]["rain-002"].name == "rain-002.png"
    )


def test_rain_in_one_folder(tmp_path):
    put(tmp_path / "Rain100H" / "norain-1.png")
    put(tmp_path / "Rain100H" / "rain-1.png")
    assert only(tmp_path, "Rain100H").layout.words == "pairs rain-x + norain-x"


def test_gopro_scenes(tmp_path):
    for scene in ("GOPR1", "GOPR2"):
        for side in ("blur", "sharp"):
            put(tmp_path / "GoPro" / "test" / scene / side / "000001.png")
    found = only(tmp_path, "GoPro")
    assert [*found.hq] == ["GOPR1/000001", "GOPR2/000001"] and found.suits(DEBLUR)


def test_a_flat_folder_is_a_set_by_itself(tmp_path):
    put(tmp_path / "b.jpg")
    put(tmp_path / "a.png", image=np.full((9, 9), 7, np.uint8))
    (tmp_path / "notes.txt").write_text("x")
    (found,) = find_sets(tmp_path)
    assert [p.name for p in found.pictures(DENOISE)] == [
        "a",
        "b",
    ] and found.layout.words == "a flat folder of clean pictures"
    # Grey images are read as R = G = B.
    assert next(found.pictures(DENOISE)).hq.tolist() == np.full((9, 9, 3), 7).tolist()


def test_all_sets_of_a_folder_are_found_and_named_ones_by_any_usual_name(tmp_path):
    for name in ("BSD100", "kodak"):
        put(tmp_path / name / "1.png")
    (tmp_path / "empty").mkdir()
    assert [one.name for one in find_sets(tmp_path)] == ["BSD100", "kodak"]
    assert [one.name for one in find_sets(tmp_path, ["Kodak24", "B100"])] == ["kodak", "BSD100"]
    assert find_sets(tmp_path / "kodak", ["Kodak24"])[0].kinds() == {"noise"}


def test_kinds_of_tasks():
    assert [kind_of(t) for t in (SR2, DENOISE, DERAIN, DEBLUR)] == ["sr", "noise", "rain", "pairs"]
    assert isinstance(DEBLUR.degrade, Paired)


def test_wrong_folders_say_what_was_looked_for_and_what_is_there(tmp_path):
    with pytest.raises(DataError, match="there is no such folder"):
        find_sets(tmp_path / "nothing")
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(DataError, match="not a folder"):
        find_sets(tmp_path / "file.txt")
    with pytest.raises(DataError, match=r"Looked for.*HR.*rainy \+ clean.*contains: file\.txt"):
        find_sets(tmp_path)
    put(tmp_path / "Set5" / "HR" / "a.png")
    (tmp_path / "Set14").mkdir()
    with pytest.raises(
        DataError, match=r"no set 'Set55'.*did you mean 'Set5'.*contains: Set14/, Set5/, file\.txt"
    ):
        find_sets(tmp_path, ["Set55"])
    with pytest.raises(
        DataError, match=r"Set14: no images in a known layout.*The folder contains: nothing"
    ):
        find_sets(tmp_path, ["Set14"])


def test_incomplete_sets_name_what_is_missing(tmp_path):
    for name in ("a", "b", "c"):
        put(tmp_path / "P" / "clean" / f"{name}.png")
    put(tmp_path / "P" / "rainy" / "a.png")
    with pytest.raises(DataError, match=r"no degraded image for b, c; there: a"):
        find_sets(tmp_path, ["P"])
    put(tmp_path / "Q" / "HR" / "x.png")
    put(tmp_path / "Q" / "LR_bicubic" / "X3" / "y.png")
    with pytest.raises(DataError, match=r"X3: no low-resolution image for x; there: y"):
        find_sets(tmp_path, ["Q"])
    put(tmp_path / "R" / "a.png")
    put(tmp_path / "R" / "a.jpg")
    with pytest.raises(DataError, match=r"two images of one name: a\.jpg, a\.png"):
        find_sets(tmp_path, ["R"])


def test_sizes_of_a_pair_that_do_not_match(tmp_path):
    put(tmp_path / "P" / "clean" / "a.png", 20, 24)
    put(tmp_path / "P" / "rainy" / "a.png", 20, 23)
    with pytest.raises(
        DataError, match=r"the sizes of the pair a\.png \(23x20\) and a\.png \(24x20\) do not match"
    ):
        find_sets(tmp_path, ["P"])


def test_a_picture_that_does_not_open_is_named(tmp_path):
    put(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:-20])
    (found,) = find_sets(tmp_path)
    with pytest.raises(DataError, match=r"b\.png: .*truncated"):
        list(found.pictures(DENOISE))


def test_names_that_begin_alike_are_kept_apart(tmp_path):
    for name in ("img_1", "img_10", "img_100"):
        put(tmp_path / "S" / "HR" / f"{name}.png")
        put(tmp_path / "S" / "LR_bicubic" / "X2" / f"{name}x2.png", 10, 12)
    found = only(tmp_path, "S")
    assert {name: path.name for name, path in found.layout.lq[2].items()} == {
        n: f"{n}x2.png" for n in ("img_1", "img_10", "img_100")
    }


def test_the_benchmarks_at_hand(benchmarks):
    found = {one.name: one for one in find_sets(benchmarks)}
    assert {name: len(one.hq) for name, one in found.items()} == {
        "CBSD68": 68,
        "Rain100L": 46,
        "Set14": 14,
        "Set5": 5,
    }
    assert found["Rain100L"].layout.paired and found["Set5"].layout.lq.keys() == {2, 3, 4}
