"""The training images of a run, and the length of its epochs."""

from __future__ import annotations

import logging

import pytest
from training import config, make_photographs

from ipt_jax.config.resolve import resolve
from ipt_jax.data import pipeline
from ipt_jax.tasks import make_tasks
from ipt_jax.train.data import open_data
from ipt_jax.train.validation import held_out

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


def test_links_to_nothing_are_replaced_and_other_formats_are_named(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("ipt_jax"), "propagate", True)
    folder = make_photographs(tmp_path)
    for name in ("8", "9"):
        (folder / f"{name}.png").symlink_to(folder / "gone.png")
    (folder / "a.heic").write_bytes(b"x")
    found, source = open_data(config(folder, data={"held_out": 3}))
    assert "1 file of another format is left out: 1 .heic (a.heic); HEIC is not" in caplog.text
    batches = pipeline.make_batches(source, make_tasks(found.tasks), found)
    replaced = [text for step in range(4) for text in batches(step).replaced]
    names = {source.name(i) for i in range(len(source))}
    assert replaced and {text.split(": ")[0] for text in replaced} == names & {"8.png", "9.png"}
    assert all(text.endswith("a link to a file that does not exist") for text in replaced)
    # The held-out images that can be read are scored.
    images = held_out(resolve(config(folder, data={"held_out": 9})), 10, 0)
    assert 7 <= len(images) <= 8 and not {image.name for image in images} & {"8.png", "9.png"}
