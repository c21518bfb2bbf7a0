"""The training images of a run, and the length of its epochs."""

from __future__ import annotations

import logging

import pytest
from training import config, make_photographs

from ipt_jax.train.data import open_data

pytest.importorskip("skimage", reason="needs scikit-image's photographs")


def test_epochs_become_steps_and_are_explained(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("ipt_jax"), "propagate", True)
    folder = make_photographs(tmp_path)
    data = {"held_out": 3, "epoch_crops": 10}
    with caplog.at_level(logging.INFO, "ipt_jax"):
        found, source = open_data(config(folder, epochs=3, data=data))
    # 2 groups of 2 images, 10 crops, 2 tasks: 80 samples, 10 steps of 8.
    assert len(source) == 5 and found.steps == 30
    assert (
        "an epoch is 10 crop(s) of each of the 5 images for each of 2 tasks: 80 samples, 10.0 "
        "steps of 8" in caplog.text
    )
    assert open_data(config(folder, epochs=0, steps=7, data=data))[0].steps == 7
