"""`ipt evaluate --shard` and `--merge`: parts together are the whole."""

from __future__ import annotations

import json
import pathlib
import re

import numpy as np
import pytest
import runs

from ipt_jax.errors import DataError, UsageError
from tests.evaluate.test_benchmark import evaluate
from tests.evaluate.test_scoring import photograph
from tests.evaluate.test_sets import put

WORDS = ("--overlap", "4", "--batch", "2", "--tasks", "denoise50")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
    """Makes a set with seven images of noise's sizes, one without SSIM, and one of one image."""
    root = tmp_path_factory.mktemp("data")
    for i in range(7):
        put(root / "Many" / f"{i}.png", image=photograph(20 + 3 * i, 37, i))
    put(root / "Many" / "tiny.png", image=photograph(8, 9, 1))
    same = np.full((20, 20, 3), 90, np.uint8)
    put(root / "One" / "grey.png", image=same)
    return root


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("run")
    runs.make_run(folder, tasks=("sr2", "denoise50"), steps=(20, 21))
    return str(folder)


@pytest.fixture(scope="module")
def parts(data, run_folder, tmp_path_factory) -> pathlib.Path:
    """Evaluates the whole, and three shards of it."""
    out = tmp_path_factory.mktemp("parts")
    words = ["--weights", run_folder, "--data", str(data), *WORDS]
    whole = ["--json", str(out / "whole.json"), "--report", str(out / "whole.html")]
    assert evaluate(*words, *whole) == 0
    for i in range(3):
        part = ["--json", str(out / f"{i}.json"), "--report", str(out / "r.html")]
        assert evaluate(*words, "--shard", f"{i}/3", *part) == 0
    assert not (out / "r.html").exists()
    return out


def merge(folder: pathlib.Path, *names: str, words: tuple[str, ...] = ()) -> int:
    files = [str(folder / f"{name}.json") for name in names]
    return evaluate("--merge", *files, "--json", str(folder / "merged.json"), *words)


def without_seconds(text: str) -> str:
    return re.sub(r'"seconds": [\d.]+', "", text)


def test_parts_together_are_the_whole(parts, capsys):
    assert merge(parts, "2", "0", "1", words=("--report", str(parts / "merged.html"))) == 0
    said = capsys.readouterr().out
    assert "Many" in said and "tiny" in said
    merged = (parts / "merged.json").read_text()
    assert without_seconds(merged) == without_seconds((parts / "whole.json").read_text())
    assert (parts / "merged.html").read_text() == (parts / "whole.html").read_text()
    rows = json.loads(merged)["rows"]
    assert [len(row["scores"]) for row in rows] == [8, 1]
    assert rows[0]["scores"][7]["result"]["ssim_y"] is None


def test_parts_that_do_not_belong_together_are_refused(parts, data, run_folder, tmp_path):
    def change(name: str, *path: object, value: object) -> str:
        part = json.loads((parts / "1.json").read_text())
        inner = part
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        (parts / f"{name}.json").write_text(json.dumps(part))
        return name

    first = json.loads((parts / "1.json").read_text())
    cases = [
        (("0", "1"), "missing: 2/3"),
        (("0", "1", "2", "2"), "twice"),
        (("0", "1", "2", change("copy", "part", "format", value=1)), "both shard 1/3"),
        (("0", change("count", "part", "of", value=4), "2"), "of 3 parts and one of 4"),
        (("0", change("seed", "described", "seed", value=3), "2"), "seed: 0 and 3"),
        (("0", change("limit", "identity", "limit", value=3), "2"), "limit: 0 and 3"),
        (("0", change("w", "identity", "fingerprint", value="f"), "2"), "weights differ"),
        (("0", change("set", "rows", 0, "set", "name", value="X"), "2"), "their sets"),
        (("0", change("names", "rows", 0, "names", 0, value="X"), "2"), "their sets"),
        (("0", change("less", "rows", 0, "scores", value=[]), "2"), "no scores"),
        (
            ("0", change("more", "rows", 0, "too_small", value=["tiny"]), "2"),
            "no scores, or several",
        ),
        (("0", change("v", "part", "format", value=99), "2"), "another version"),
        (("0", "whole", "2"), "not a part"),
        (("0", "nothing", "2"), "No such file"),
    ]
    assert first["part"]["shard"] == 1
    for names, said in cases:
        (parts / "merged.json").unlink(missing_ok=True)
        with pytest.raises(DataError, match=said):
            merge(parts, *names)
        assert not (parts / "merged.json").exists()
    # The same name and settings, but other weights.
    other = ["--weights", run_folder, "--raw", "--data", str(data), *WORDS]
    out = ["--json", str(parts / "raw.json")]
    assert evaluate(*other, "--shard", "1/3", *out) == 0
    with pytest.raises(DataError, match="do not belong together"):
        merge(parts, "0", "raw", "2")


def test_wrong_usage_of_parts(data, parts, tmp_path):
    words = ["--weights", "input", "--data", str(data), "--tasks", "denoise50", "--shard", "1/2"]
    with pytest.raises(UsageError, match="needs --json"):
        evaluate(*words)
    with pytest.raises(UsageError, match="without --save-inputs"):
        evaluate(*words, "--json", str(tmp_path / "a.json"), "--save-inputs", str(tmp_path / "i"))
    with pytest.raises(UsageError, match="name the images with --data"):
        evaluate("--weights", "input")
    with pytest.raises(UsageError, match="takes all from its parts"):
        evaluate("--merge", "a.json", "--data", "x")
    for number in (1, 2):
        assert evaluate(*words[:-1], f"{number}/2", "--json", str(tmp_path / f"{number}.json")) == 0
    both = [str(tmp_path / "1.json"), str(tmp_path / "2.json")]
    with pytest.raises(UsageError, match="has no images"):
        evaluate("--merge", *both, "--report", str(tmp_path / "r.html"))
    assert evaluate("--merge", *both) == 0
