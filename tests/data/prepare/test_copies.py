"""Copies of images between data sets are found, and different images are not."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from ipt_jax.cli import data as cli
from ipt_jax.cli.app import Parser
from ipt_jax.data.prepare import copies


def photograph(seed: int, height: int = 240, width: int = 320) -> np.ndarray:
    """Returns a smooth image with structure at all scales, as photographs have it."""
    rng = np.random.default_rng(seed)
    made = np.zeros((height, width, 3), np.float32)
    for side in (4, 8, 16, 32, 64):
        grid = rng.normal(0, 40 / side**0.5, (side, side, 3)).astype(np.float32)
        made += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(made * 2 + 128, 0, 255).astype(np.uint8)


CHANGES = {
    "smaller": lambda x: cv2.resize(x, (107, 80), interpolation=cv2.INTER_AREA),
    "larger": lambda x: cv2.resize(x, (700, 525), interpolation=cv2.INTER_CUBIC),
    "jpeg": lambda x: cv2.imdecode(cv2.imencode(".jpg", x, [1, 25])[1], 1),
    "mirrored": lambda x: x[:, ::-1],
    "upside_down": lambda x: x[::-1],
    "turned": lambda x: np.rot90(x),
    "brighter": lambda x: np.clip(x * 1.1 + 8, 0, 255).astype(np.uint8),
    "grey": lambda x: np.repeat(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY)[..., None], 3, -1),
}


def distance(a: np.ndarray, b: np.ndarray) -> int:
    return int((copies.hashes_of_turned(a) != copies.perceptual_hash(b)).sum(1).min())


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_close_and_other_images_are_not(change):
    changed = CHANGES[change](photograph(0))
    assert distance(changed, photograph(0)) <= copies.COPY // 2
    assert min(distance(changed, photograph(seed)) for seed in range(1, 12)) > copies.COPY + 10


def test_the_command_names_copies_and_draws_the_closest_pairs(tmp_path, capsys):
    for folder, seeds in (("train", range(4)), ("bench/Set", range(10, 14))):
        (tmp_path / folder).mkdir(parents=True)
        for seed in seeds:
            cv2.imwrite(str(tmp_path / folder / f"{seed}.png"), photograph(seed))
    parser = Parser(prog="ipt data")
    cli.add_parser(parser.add_subparsers(required=True))

    def check(*more: str) -> int:
        words = ["check", str(tmp_path / "train"), "--against", str(tmp_path / "bench"), *more]
        options = parser.parse_args(words)
        return options.run(options)

    sheet, report = tmp_path / "pairs.png", tmp_path / "r.json"
    assert check() == 0
    assert "4 images compared with 4 of the benchmarks: 0 copies" in capsys.readouterr().out
    cv2.imwrite(str(tmp_path / "train" / "x.jpg"), CHANGES["smaller"](photograph(12))[:, ::-1])
    assert check("--pairs", str(sheet), "--json", str(report)) == 1
    assert "  copy, distance" in capsys.readouterr().out
    found = json.loads(report.read_text())["against"]
    assert [(one["training"], one["benchmark"]) for one in found["copies"]] == [
        ("x.jpg", "Set/12.png")
    ]
    assert len(found["closest"]) == 4 and found["compared"] == {"training": 5, "benchmarks": 4}
    assert sheet.exists()
    page = cv2.imread(str(sheet))
    assert page.shape == (5 * (192 + 26) + 6, 2 * 198 + 6, 3)
    # The first row has the copy on the left, mirrored.
    left, right = page[26:218, 6:198], page[26:218, 204:396]
    assert np.abs(left[:, ::-1].astype(int) - right).mean() < 8
