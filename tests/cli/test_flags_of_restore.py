"""Flags of `ipt restore` and `ipt evaluate`: each changes the result as the interface says."""

from __future__ import annotations

import json

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
    # Files are restored in strips, whose sums have another order: a value may round the other way.
    different = np.abs(found.astype(int) - expected)
    assert different.max() <= 1 and np.mean(different) < 1e-3
    assert np.mean(np.abs(found.astype(int) - unchanged)) > 1e-2


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
