"""Layouts of pairs: training, evaluation, other software's results and the check agree on partners.

Image i is grey level 10 i + 5 where it is clean, and 10 i + 6 where it is degraded, so that pixels
tell which image is which.
"""

from __future__ import annotations

import argparse
import pathlib

import cv2
import numpy as np
import pytest

from ipt_jax.cli import data as cli
from ipt_jax.data.sources.pairs import Pairs, decode_pair
from ipt_jax.errors import DataError
from ipt_jax.evaluate.benchmark import BenchmarkSettings, run_benchmark
from ipt_jax.evaluate.candidates import Outputs
from ipt_jax.evaluate.sets import find_sets
from ipt_jax.tasks import TASKS

# Layout -> the scale, and clean image -> degraded image.
LAYOUTS = {
    "words": (1, {f"target/{n}.png": f"input/{n}.png" for n in ("baby", "baby_2", "dog")}),
    "numbers": (1, {f"target/s1_f{i}.png": f"input/s1_f{i}.png" for i in (1, 10, 11)}),
    "subfolders": (
        1,
        {f"target/{s}/{n}.png": f"input/{s}/{n}.png" for s in ("s1", "s2") for n in "ab"},
    ),
    "RainDrop": (1, {f"gt/{i}_clean.png": f"data/{i}_rain.png" for i in (0, 1, 10)}),
    "rainy": (1, {f"norain-{i}.png": f"rainy/rain-{i}x2.png" for i in (1, 2, 12)}),
    "flat rain": (1, {f"norain-{i:03}.png": f"rain-{i:03}.png" for i in (1, 2, 12)}),
    "GoPro": (1, {f"test/{s}/sharp/1.png": f"test/{s}/blur/1.png" for s in ("s1", "s2", "s10")}),
    "DIV2K bicubic": (
        4,
        {f"D_valid_HR/{i:04}.png": f"D_valid_LR_bicubic/X4/{i:04}x4.png" for i in (1, 2, 10)},
    ),
    "DIV2K unknown": (
        2,
        {f"D_train_HR/{i:04}.png": f"D_train_LR_unknown/X2/{i:04}x2.png" for i in (1, 2, 10)},
    ),
    "unknown": (3, {f"HR/{i}.png": f"LR_unknown/X3/{i}x3.png" for i in (1, 2, 10)}),
    "SelfExSR": (
        2,
        {
            f"image_SRF_2/img_{i:03}_SRF_2_HR.png": f"image_SRF_2/img_{i:03}_SRF_2_LR.png"
            for i in (1, 2, 10)
        },
    ),
}


def write(path: pathlib.Path, level: int, side: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((side, side, 3), level, np.uint8))


def make(folder: pathlib.Path, layout: str) -> dict[str, str]:
    """Writes the images of a layout; returns its pairs of files."""
    scale, pairs = LAYOUTS[layout]
    for i, (clean, degraded) in enumerate(pairs.items()):
        write(folder / clean, 10 * i + 5, 12 * scale)
        write(folder / degraded, 10 * i + 6, 12)
    return pairs


def levels_of_training(folder: pathlib.Path) -> set[tuple[int, int]]:
    """Returns the grey levels of (degraded, clean) of each pair that training reads."""
    source = Pairs(folder)
    pairs = (decode_pair(source[i], source.scale) for i in range(len(source)))
    return {(int(lq[0, 0, 0]), int(hq[0, 0, 0])) for lq, hq in pairs}


def levels_of_evaluation(folder: pathlib.Path, scale: int) -> set[tuple[int, int]]:
    (found,) = find_sets(folder)
    task = TASKS[{1: "derain", 2: "sr2", 3: "sr3", 4: "sr4"}[scale]]
    assert found.suits(task)
    return {
        (int(image.lq[0, 0, 0]), int(image.hq[0, 0, 0]))
        for image in found.pictures(task)
        if image.lq is not None
    }


def check(folder: pathlib.Path, capsys) -> tuple[int, str]:
    """Runs `ipt data check`; returns its exit code and its output."""
    top = argparse.ArgumentParser()
    cli.add_parser(top.add_subparsers(required=True))
    options = top.parse_args(["check", str(folder), "--crop", "0"])
    return options.run(options), capsys.readouterr().out


@pytest.mark.parametrize("layout", LAYOUTS)
def test_partners_are_the_same_everywhere(layout, tmp_path, capsys):
    folder = tmp_path / "set"
    pairs, scale = make(folder, layout), LAYOUTS[layout][0]
    wanted = {(10 * i + 6, 10 * i + 5) for i in range(len(pairs))}
    assert levels_of_training(folder) == wanted
    assert levels_of_evaluation(folder, scale) == wanted
    code, printed = check(folder, capsys)
    assert code == 0 and f"{len(pairs)} pairs at x{scale}" in printed


@pytest.mark.parametrize("side", [0, 1], ids=["clean", "degraded"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_image_without_a_partner_is_named_and_refused(layout, side, tmp_path, capsys):
    folder = tmp_path / "set"
    pair = next(iter(make(folder, layout).items()))
    (folder / pair[side]).unlink()
    left = pathlib.Path(pair[1 - side]).stem
    if layout == "SelfExSR":
        left = left[: -len("_SRF_2_HR")]
    left = left.removeprefix("no")
    for use in (Pairs, find_sets):
        with pytest.raises(DataError, match=r"no (degraded|low-resolution|clean) image") as error:
            use(folder)
        assert left in str(error.value)
    code, printed = check(folder, capsys)
    assert code == 1 and "the pairs do not match:" in printed and left in printed


def test_the_reported_sets_are_refused(tmp_path):
    """Pairs that were mismatched: baby with baby_2, and frame 11 with frame 10."""
    for clean, degraded, message in (
        (("baby", "baby_2", "dog"), ("baby_2", "dog"), "no degraded image for baby;"),
        (("s1_f10", "s1_f11"), ("s1_f10",), "no degraded image for s1_f11;"),
        (("s1_f11",), ("s1_f10",), "no degraded image for s1_f11;.*no clean image for s1_f10"),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name in clean:
            write(folder / "target" / f"{name}.png", 9, 12)
        for name in degraded:
            write(folder / "input" / f"{name}.png", 8, 12)
        for use in (Pairs, find_sets):
            with pytest.raises(DataError, match=message):
                use(folder)


def outputs(folder: pathlib.Path, data: pathlib.Path, task: str) -> list[float]:
    """Returns the PSNR on RGB of each image of `outputs:FOLDER`."""
    settings = BenchmarkSettings(tasks=[task])
    (row,) = run_benchmark(Outputs(f"outputs:{folder}"), find_sets(data), settings)
    return [score.after["psnr_rgb"] for score in row.scores]


def test_results_of_other_software_are_scored_with_their_own_images(tmp_path, caplog):
    data, results = tmp_path / "set", tmp_path / "results"
    for i, name in enumerate(("baby", "baby_2", "dog")):
        write(data / f"{name}.png", 10 * i + 5, 12)
        write(results / f"{name}_RCAN.png", 10 * i + 5, 12)
    assert outputs(results, data, "denoise50") == [np.inf] * 3
    (results / "baby_RCAN.png").unlink()
    with pytest.raises(DataError, match="no restored picture for baby"):
        outputs(results, data, "denoise50")
    for name in ("baby_2", "dog"):
        (results / f"{name}_RCAN.png").rename(results / f"{name}.png")
    with pytest.raises(DataError, match="no restored picture for baby;"):
        outputs(results, data, "denoise50")


def test_results_of_scenes_are_found_below_their_folders(tmp_path):
    make(tmp_path / "set", "subfolders")
    clean = LAYOUTS["subfolders"][1]
    for i, name in enumerate(clean):
        write(tmp_path / "results" / pathlib.Path(name).relative_to("target"), 10 * i + 5, 12)
    assert outputs(tmp_path / "results", tmp_path / "set", "derain") == [np.inf] * 4


@pytest.mark.parametrize("folders", [("rainy_image", "ground_truth"), ("hazy", "gt")])
def test_several_degraded_images_of_each_clean_one(folders, tmp_path):
    """Rain1400 has 14 rainy images of each clean one; no clean image is in both splits."""
    folder = tmp_path / "Rain1400"
    for i in range(1, 5):
        write(folder / folders[1] / f"{i}.jpg", 50 * i, 16)
        for k in range(1, 15):
            write(folder / folders[0] / f"{i}_{k}.jpg", 50 * i + k, 16)
    (found,) = find_sets(folder)
    assert len(found.hq) == 56 and found.layout.words.endswith("many to one")
    for image in found.pictures(TASKS["derain"]):
        assert 0 < int(image.lq[0, 0, 0]) - int(image.hq[0, 0, 0]) < 15
    train, held = Pairs(folder, "train", 5), Pairs(folder, "eval", 5)
    clean = [{source.name(i).split("_")[0] for i in range(len(source))} for source in (train, held)]
    assert len(held) == 5 and len(train) == 42 and not clean[0] & clean[1]
    assert len(Pairs(folder, "eval", 20)) == 20 and len(Pairs(folder, "train", 20)) == 28
    with pytest.raises(DataError, match="held_out=50 leaves no pairs for training"):
        Pairs(folder, "train", 50)
    write(folder / folders[0] / "9_1.jpg", 7, 16)
    with pytest.raises(DataError, match="no clean image for 9_1"):
        find_sets(folder)


def test_folders_with_pairs_of_two_kinds_or_of_two_sets_are_refused(tmp_path):
    write(tmp_path / "both" / "HR" / "1.png", 5, 24)
    for kind in ("bicubic", "unknown"):
        write(tmp_path / "both" / f"LR_{kind}" / "X2" / "1x2.png", 6, 12)
    with pytest.raises(DataError, match="LR_bicubic and LR_unknown both hold degraded images"):
        Pairs(tmp_path / "both")
    (found,) = find_sets(tmp_path / "both")
    assert found.layout.words.endswith("LR_unknown is not used")
    for part in ("train", "valid"):
        write(tmp_path / "div" / f"DIV2K_{part}_HR" / "1.png", 5, 24)
        write(tmp_path / "div" / f"DIV2K_{part}_LR_unknown" / "X2" / "1x2.png", 6, 12)
    with pytest.raises(DataError, match="DIV2K_train_HR, DIV2K_valid_HR belong to several sets"):
        Pairs(tmp_path / "div")


def test_each_scale_of_selfexsr_has_its_own_clean_images(tmp_path):
    """The clean images of a scale are cut to its multiples: 26 pixels at x2, 24 at x3."""
    for scale, side in ((2, 26), (3, 24)):
        place = tmp_path / f"image_SRF_{scale}"
        write(place / f"img_1_SRF_{scale}_HR.png", 5, side)
        write(place / f"img_1_SRF_{scale}_LR.png", 6, side // scale)
        write(place / f"img_1_SRF_{scale}_bicubic.png", 7, side)
    (found,) = find_sets(tmp_path)
    assert list(found.hq) == ["img_1"] and found.kinds() >= {"sr"}
    for scale, side in ((2, 26), (3, 24), (4, 26)):
        (image,) = found.pictures(TASKS[f"sr{scale}"])
        assert image.hq.shape[0] == side and (image.lq is None) == (scale == 4)
    assert Pairs(tmp_path, scale=3).scale == 3


def test_sizes_of_all_pairs_are_compared_before_anything_is_scored(tmp_path):
    make(tmp_path, "words")
    write(tmp_path / "input" / "dog.png", 9, 11)
    for use in (Pairs, find_sets):
        with pytest.raises(DataError, match=r"1 pair\(s\) whose sizes do not match at x1: .*dog"):
            use(tmp_path)


def test_a_link_to_nothing_is_an_image_that_cannot_be_read(tmp_path, capsys):
    make(tmp_path, "words")
    (tmp_path / "input" / "dog.png").unlink()
    (tmp_path / "input" / "dog.png").symlink_to(tmp_path / "gone.png")
    (found,) = find_sets(tmp_path)
    with pytest.raises(DataError, match=r"dog\.png: a link to a file that does not exist"):
        list(found.pictures(TASKS["derain"]))
    code, printed = check(tmp_path, capsys)
    assert code == 1 and "input/dog.png: a link to a file that does not exist" in printed
