"""The weights that come with the package."""

from __future__ import annotations

import json

import numpy as np
import pytest

import ipt_jax
from ipt_jax.evaluate.scoring import BenchmarkImage, baseline, make_lq
from ipt_jax.metrics import psnr
from ipt_jax.tasks import PAPER_TASKS, TASKS
from ipt_jax.weights import default as defaults

FOLDER = defaults.SHIPPED / "ipt_small"
# What each task must gain in dB on a photograph that was not in the training data: about half of
# what it gains today.
GAINS = {
    "sr2": 0.8,
    "sr3": 0.3,
    "sr4": 0.3,
    "derain": 2.0,
    "denoise30": 4.0,
    "denoise50": 5.0,
    "denoise": 3.0,
    "jpeg": 0.4,
    "photo2": 0.3,
    "deblur": 0.3,
}


@pytest.fixture(scope="module")
def model():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(defaults.VARIABLE, raising=False)
        patch.setattr(defaults, "cache", lambda: FOLDER.parent / "none")
        found = defaults.default_weights(PAPER_TASKS)
    assert found == str(FOLDER)
    return ipt_jax.load(found)


@pytest.mark.parametrize("task", GAINS)
def test_it_restores_a_photograph(model, task):
    pytest.importorskip("skimage", reason="needs scikit-image's photographs")
    from ipt_jax.data.sources.embedded import embedded

    # The crop shows a face.
    hq = embedded("all")[0][96:240, 120:264]
    lq, clean = make_lq(BenchmarkImage("astronaut", hq), TASKS[task], seed=0)
    restored = model.restore(lq, task=task)
    restored = np.clip(np.round(restored), 0, 255).astype(np.uint8)
    scores = [
        psnr(x, clean, channel="y", border=TASKS[task].border)
        for x in (baseline(lq, TASKS[task]), restored)
    ]
    assert scores[1] - scores[0] > GAINS[task]


def test_it_is_small_and_says_what_it_is():
    files = [file for file in FOLDER.parent.rglob("*") if file.is_file()]
    assert all(file.stat().st_size < 5_000_000 for file in files)
    described = json.loads((FOLDER / "model.json").read_text())
    card = json.loads((FOLDER.parent / "ipt_small.card.json").read_text())
    assert (
        "CC BY-SA 4.0" in described["provenance"]["licence"]
        and "CC0" in described["provenance"]["licence"]
    )
    assert card["sha256"] == described["sha256"]
    assert {f"Set5/sr{s}/psnr_y" for s in (2, 3, 4)} | {"CBSD68/denoise50/psnr_rgb"} <= card[
        "scores"
    ].keys()
    text = json.dumps([described, card])
    assert "/work" not in text and "/home" not in text and "/root" not in text
