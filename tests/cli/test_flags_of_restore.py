"""Flags of `ipt restore` and `ipt evaluate`: each changes the result as the interface says."""

from __future__ import annotations

import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

import ipt_jax
from ipt_jax.cli.app import main

SIZE = (40, 28)


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("photo") / "photo.png"
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), np.uint8)
    Image.fromarray(noise).save(file)
    return str(file)


# Flags, and what the Python interface calls the same: settings of `load`, settings of `restore`.
FLAGS = {
    "--ensemble": ({}, {"ensemble": True}),
    "--protocol=official": ({}, {"protocol": "official"}),
    "--overlap=9": ({}, {"overlap": 9}),
    "--raw": ({"raw": True}, {}),
    "--dtype=bfloat16": ({"dtype": "bfloat16"}, {}),
}


def restored(weights, photo, out, *flags, task="sr2") -> np.ndarray:
    """Returns what `ipt restore` writes."""
    words = ["restore", photo, "--task", task, "--weights", weights, "-o", str(out), *flags]
    assert main([*words, "--overwrite"]) == 0
    return np.asarray(Image.open(out))


@pytest.fixture(scope="module")
def unchanged(run, photo, tmp_path_factory) -> np.ndarray:
    return restored(run, photo, tmp_path_factory.mktemp("out") / "x.png")


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_of_restore_is_the_setting_of_the_same_name(flag, run, photo, unchanged, tmp_path):
    loading, restoring = FLAGS[flag]
    found = restored(run, photo, tmp_path / "x.png", flag)
    model = ipt_jax.load(run, **loading)
    expected = model.restore(np.asarray(Image.open(photo)), task="sr2", **restoring)
    # The mean of the eight turned results is computed in another order: see restore/strips.py.
    most = 1 if flag == "--ensemble" else 0
    assert np.abs(found.astype(int) - expected).max() <= most
    assert np.abs(found.astype(int) - unchanged).max() > most


def test_inputs_tasks_and_weights(run, photo, tmp_path, monkeypatch):
    # What a command without --weights takes; the shipped weights are larger.
    monkeypatch.setenv("IPT_WEIGHTS", run)
    other = tmp_path / "other.png"
    Image.fromarray(np.asarray(Image.open(photo))[::-1]).save(other)
    results = [
        restored(run, photo, tmp_path / "x.png"),
        restored(run, str(other), tmp_path / "a.png"),
        restored(f"{run}@19", photo, tmp_path / "b.png"),
        restored(run, photo, tmp_path / "c.png", task="denoise50"),
    ]
    assert len({result.tobytes() for result in results}) == 4
    assert [result.shape[:2] for result in results] == [(56, 80), (56, 80), (56, 80), (28, 40)]


@pytest.fixture
def files(run, photo, tmp_path, monkeypatch):
    """Returns a function that restores an image and returns the names of all files."""
    monkeypatch.chdir(tmp_path)

    def restore(*flags: str, source: str = photo, code: int = 0) -> list[str]:
        words = ["restore", source, "--task=denoise50", f"--weights={run}", *flags]
        assert main(words) == code
        return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))

    return restore


def test_names_and_formats_of_results(files):
    assert files() == ["restored/photo.png"]
    assert files("--out=there") == ["restored/photo.png", "there/photo.png"]
    assert "webp/photo.webp" in files("--out=webp", "--format=webp")
    assert "both/photo_compare.png" in files("--out=both", "--compare")


def test_quality_and_background(files, tmp_path):
    files("--out=a.jpg", "--quality=95")
    files("--out=b.jpg", "--quality=5")
    assert (tmp_path / "b.jpg").stat().st_size < 0.5 * (tmp_path / "a.jpg").stat().st_size
    pixels = np.zeros((20, 20, 4), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    for colour, rgb in (("white", (255, 255, 255)), ("#ff8800", (255, 136, 0))):
        files("--out=x.bmp", f"--background={colour}", "--overwrite", source="clear.png")
        assert (np.asarray(Image.open(tmp_path / "x.bmp")) == rgb).all()


def test_a_result_is_made_again_only_if_asked_for(files, tmp_path):
    files("--out=a.png")
    before = (tmp_path / "a.png").read_bytes()
    files("--out=a.png", "--overlap=9")
    assert (tmp_path / "a.png").read_bytes() == before
    files("--out=a.png", "--overlap=9", "--overwrite")
    assert (tmp_path / "a.png").read_bytes() != before


def test_inputs_that_are_too_large(files, capsys):
    assert files("--max-megapixels=0.001", code=1) == []
    assert "photo.png" in capsys.readouterr().err
    assert files("--max-megapixels=0.002") == ["restored/photo.png"]


def test_heads_and_tasks_of_an_authors_file(authors, run, photo, tmp_path, capsys):
    def found(*flags, task):
        return restored(authors, photo, tmp_path / "x.png", *flags, task=task)

    pixels = np.asarray(Image.open(photo))
    two = found("--heads=2", "--weights-tasks=denoise30", task="denoise30")
    for heads in (2, 4):
        one = found(f"--heads={heads}", "--weights-tasks=denoise30", task="denoise30")
        model = ipt_jax.load(authors, heads=heads, task="denoise30")
        assert list(model.tasks) == ["denoise30"]
        assert np.array_equal(one, model.restore(pixels))
        assert np.array_equal(one, two) is (heads == 2)
    words = ["restore", photo, "--weights", authors, "--heads=2", "-o", str(tmp_path / "y.png")]
    assert main([*words, "--task=denoise30", "--weights-tasks=denoise50"]) == 2
    assert "denoise30" in capsys.readouterr().err


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of two images."""
    folder = tmp_path_factory.mktemp("set") / "images"
    folder.mkdir()
    for i in range(2):
        noise = np.random.default_rng(i).integers(0, 256, (*SIZE[::-1], 3), np.uint8)
        Image.fromarray(noise).resize(SIZE[::-1]).save(folder / f"{i}.png")
    return str(folder)


def scores(run, images, file, *flags):
    """Returns the mean PSNR for each task, of the input and of the result."""
    words = ["evaluate", "--data", images, "--weights", run, "--json", str(file), *flags]
    assert main(words) == 0
    found = json.loads(file.read_text())
    rows = [{key: row[key] for key in SCORED} for row in found["rows"]]
    return json.dumps(rows, sort_keys=True)


SCORED = ("task", "input", "result")

EVALUATED = {
    "--ensemble": True,
    "--protocol=official": True,
    "--overlap=9": True,
    "--raw": True,
    "--dtype=bfloat16": True,
    "--seed=1": True,
    "--noise-clip=off": True,
    "--limit=1": True,
    "--task=denoise50": True,
    # Neither the number of tiles in a call nor a default changes scores.
    "--batch=3": False,
    "--protocol=blend": False,
}


@pytest.fixture(scope="module")
def usual(run, images, tmp_path_factory):
    return scores(run, images, tmp_path_factory.mktemp("scores") / "a.json")


@pytest.mark.parametrize("flag", EVALUATED)
def test_scores_differ_where_a_flag_says_so(flag, run, images, usual, tmp_path):
    found = scores(run, images, tmp_path / "a.json", flag)
    assert (found != usual) is EVALUATED[flag]


def test_weights_and_data_of_an_evaluation(run, images, photo, tmp_path, monkeypatch):
    monkeypatch.setenv("IPT_WEIGHTS", run)
    file, other = tmp_path / "a.json", tmp_path / "other"
    other.mkdir()
    (other / "0.png").write_bytes(pathlib.Path(photo).read_bytes())
    usual = scores(run, images, file)
    assert scores(f"{run}@19", images, file) != usual
    assert scores(run, str(other), file) != usual


def test_sets_and_files_of_an_evaluation(images, tmp_path):
    """The input itself is scored, which needs no network."""
    for name in ("Set5", "Set14"):
        shutil.copytree(images, tmp_path / "sets" / name)
    words = ["evaluate", "--weights=input", "--task=denoise50", f"--data={tmp_path / 'sets'}"]
    words += [f"--report={tmp_path / 'a.html'}", f"--save-inputs={tmp_path / 'inputs'}"]
    assert main([*words, f"--json={tmp_path / 'a.json'}", "--sets=Set14"]) == 0
    assert {"a.json", "a.html"} <= {path.name for path in tmp_path.iterdir()}
    assert [row["set"] for row in json.loads((tmp_path / "a.json").read_text())["rows"]] == [
        "Set14"
    ]
    assert "<html" in (tmp_path / "a.html").read_text()
    saved = sorted(path.name for path in tmp_path.glob("inputs/Set14/denoise50/*.png"))
    assert saved == ["0.png", "1.png"]
