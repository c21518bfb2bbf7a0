"""Files that version 0.1 wrote load, and its runs continue, with the present code."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
from importlib import metadata

import jax
import numpy as np
import pytest

import ipt_jax
from ipt_jax.checkpoints.checkpoints import Checkpoints
from ipt_jax.config import loading
from ipt_jax.train import pretrain

FILES = pathlib.Path(__file__).parent / "v0.1"
RECORD = json.loads((FILES / "record.json").read_text())
WEIGHTS = ("run", "run@12", "weights", "weights.npz", "weights.safetensors")


@pytest.fixture
def files(tmp_path) -> pathlib.Path:
    """A copy of the files: nothing may be written into the originals."""
    shutil.copytree(FILES, tmp_path / "v0.1")
    return tmp_path / "v0.1"


@pytest.fixture
def photographs() -> None:
    """Skips where another version of scikit-image ships other photographs."""
    pytest.importorskip("skimage", reason="needs scikit-image's photographs")
    from ipt_jax.data.sources.embedded import Embedded

    recorded = json.loads((FILES / "run" / "config.json").read_text())["data"]["fingerprint"]
    if metadata.version("scikit-image") != "0.26.0" and Embedded().fingerprint() != recorded:
        pytest.skip("this version of scikit-image ships other photographs than 0.26.0")


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_of_any_kind_give_the_outputs_that_they_gave(files, name):
    golden = np.load(FILES / "golden.npz")
    # The authors' names do not hold the number of heads or the name of a task without up-sampling.
    options = {"heads": 2, "task": "sr2,denoise50"} if name.endswith(".safetensors") else {}
    model = ipt_jax.load(str(files / name), **options)
    assert list(model.tasks) == ["sr2", "denoise50"]
    image = golden["input"]
    tiles = image[None, :8, :8].astype(np.float32)
    for task in model.tasks:
        for made, key in (
            (model.restore(image.astype(np.float32), task=task, overlap=2), f"restored/{task}"),
            (model.apply(tiles, task=task), f"applied/{task}"),
        ):
            expected = golden[key]
            assert made.shape == expected.shape and made.dtype == expected.dtype
            difference = np.abs(np.asarray(made) - expected).max()
            assert difference <= 1e-5 * np.abs(expected).max(), (key, difference)


def test_an_older_step_and_the_raw_weights_load(files):
    average = ipt_jax.load(str(files / "run@8"))
    raw = ipt_jax.load(str(files / "run@8"), raw=True)
    assert average.provenance["part"] == "ema" and raw.provenance["part"] == "params"
    assert average.provenance["step"] == raw.provenance["step"] == 8


def test_a_run_continues_as_the_code_that_began_it_would_have(files, photographs):
    run = files / "run"
    config = loading.complete({**RECORD["settings"], "steps": RECORD["end"]})
    outcome = pretrain(config, str(run))
    assert outcome.finished and outcome.step == RECORD["end"]
    state = leaves(run)
    assert state.keys() == RECORD["sha256"].keys()
    if same_bits_expected():
        changed = [name for name, leaf in state.items() if digest(leaf) != RECORD["sha256"][name]]
        assert not changed
    expected = np.load(FILES / "continued.npz")
    for name in expected.files:
        np.testing.assert_allclose(state[name], expected[name], rtol=0, atol=1e-6, err_msg=name)


def test_the_log_of_a_continued_run_keeps_its_lines(files, photographs):
    before = (files / "run" / "metrics.jsonl").read_text().splitlines()
    config = loading.complete({**RECORD["settings"], "steps": 14})
    pretrain(config, str(files / "run"))
    after = (files / "run" / "metrics.jsonl").read_text().splitlines()
    assert after[: len(before)] == before
    assert json.loads(after[-1])["step"] == 14


def leaves(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """The parameters, moments and EMA of a run's newest checkpoint, by path."""
    flat = {}
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        for part in ("params", "moments", "ema"):
            tree, _ = checkpoints.restore_params(part)
            for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
                name = "/".join(jax.tree_util.keystr((key,), simple=True) for key in path)
                flat[f"{part}/{name}"] = np.asarray(leaf)
    return flat


def digest(leaf: np.ndarray) -> str:
    """The SHA-256 of an array's dtype, shape and bytes, as in make.py."""
    return hashlib.sha256(f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes()).hexdigest()


def same_bits_expected() -> bool:
    """Whether versions, processor and XLA's flags are those of `record.json`."""
    packages = ("jax", "jaxlib", "numpy", "opencv-python-headless")
    return (
        processor() == RECORD["processor"]
        and sorted(os.environ.get("XLA_FLAGS", "").split()) == RECORD["xla_flags"]
        and all(metadata.version(name) == RECORD["versions"][name] for name in packages)
    )


def processor() -> str:
    """A digest of the processor's features, as in make.py; "" if unknown."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(" ".join(sorted(features.split())).encode()).hexdigest()[:16]
