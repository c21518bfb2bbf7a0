"""`ipt data preview`."""

from __future__ import annotations

import argparse

import cv2
import numpy as np
import pytest
from data_sets import Noisy, batches, jpeg

from ipt_jax.cli import data as cli
from ipt_jax.data.prepare.inspect import batch_sheet
from ipt_jax.errors import DataError

CONFIG = """
from ml_collections import ConfigDict
def get_config():
    return ConfigDict(dict(batch_size=24, data=dict(source="folder", held_out=0)))
"""


@pytest.fixture
def config(tmp_path) -> list[str]:
    """Returns overrides of a config with five photographs, one of which is damaged."""
    (tmp_path / "photos").mkdir()
    for i in range(5):
        (tmp_path / "photos" / f"{i}.jpg").write_bytes(jpeg(i, 220, 260)[: 900 if i == 3 else None])
    (tmp_path / "config.py").write_text(CONFIG)
    return [f"data.dir={tmp_path / 'photos'}"]


def parsed(module: object, *arguments: str, overrides: list[str]) -> argparse.Namespace:
    top = argparse.ArgumentParser()
    module.add_parser(top.add_subparsers(required=True))
    options = top.parse_args(arguments)
    options.overrides = overrides
    return options


def test_the_sheet_shows_what_is_in_the_batch():
    batch = batches(Noisy(9))(0).batch
    page = batch_sheet(batch, pairs=3)
    assert page.dtype == np.uint8 and page.shape == (6 * (48 + 26) + 6, 3 * (2 * 48 + 14) + 6, 3)
    for row, pair in enumerate(batch.values()):
        top = 6 + row * 74 + 20
        for column in range(3):
            left = 6 + column * (2 * 48 + 14)
            lq, hq = (
                page[top : top + 48, left : left + 48],
                page[top : top + 48, left + 50 : left + 98],
            )
            np.testing.assert_array_equal(
                lq[2::4, 2::4], np.clip(np.rint(pair["lq"][column]), 0, 255)
            )
            if 48 % pair["hq"].shape[1]:
                # The pixels of sr3 become squares of different sizes.
                continue
            zoom = 48 // pair["hq"].shape[1]
            np.testing.assert_array_equal(
                hq[zoom // 2 :: zoom, zoom // 2 :: zoom], pair["hq"][column]
            )


def test_preview_writes_the_batch_of_a_step(config, tmp_path, capsys):
    pages = []
    for step in ("0", "1"):
        out = tmp_path / f"{step}.png"
        options = parsed(
            cli,
            "preview",
            f"--config={tmp_path / 'config.py'}",
            "-o",
            str(out),
            "--step",
            step,
            overrides=config,
        )
        assert options.run(options) == 0
        pages.append(cv2.imread(str(out)))
    printed = capsys.readouterr().out
    assert pages[0].shape == pages[1].shape and (pages[0] != pages[1]).any()
    assert "step 1, sr2, sr3, sr4, derain, denoise30, denoise50; 4 of 4 pairs of each" in printed
    assert "replaced an image that cannot be read: 3.jpg: the JPEG is truncated" in printed


def test_preview_says_where_it_cannot_write(config, tmp_path):
    options = parsed(
        cli,
        "preview",
        f"--config={tmp_path / 'config.py'}",
        "-o",
        str(tmp_path / "no/p.png"),
        overrides=config,
    )
    with pytest.raises(DataError, match="there is no folder"):
        options.run(options)
    options.out = str(tmp_path / "preview.xyz")
    with pytest.raises(DataError, match=r"no image can be written as '\.xyz': use \.png"):
        options.run(options)
