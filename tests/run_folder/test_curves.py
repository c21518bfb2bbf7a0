"""The plot of a run."""

from __future__ import annotations

import cv2
import pytest
from etils import epath

from ipt_jax.run_folder.curves import save_curves


def test_curves_of_an_empty_log_and_of_nan(tmp_path):
    save_curves(epath.Path(tmp_path / "a.png"), [])
    save_curves(
        epath.Path(tmp_path / "b.png"),
        [
            {"step": 1, "loss": None, "lr": 1e-4},
            {"step": 2, "loss": 3.0, "l1/sr2": 2.0, "lr": 1e-4},
        ],
    )
    for name in "ab":
        assert cv2.imread(str(tmp_path / f"{name}.png")).shape[1] > 1000


@pytest.mark.filterwarnings("ignore:overflow")
def test_damaged_names_and_extreme_values_are_drawn(tmp_path):
    lines = [
        {"step": 1, "loss": 1e308, "lr": 5e-324, "l1/$x_{$": -1e308, "l1/a$b$": 2.0},
        {"step": 2**62, "loss": 5e-324, "lr": 1e308, "l1/$x_{$": 1e308},
        {"step": 3, "held_out/$\\frac$/psnr_y": 1.0, "/psnr_y": 2.0},
    ]
    save_curves(epath.Path(tmp_path / "a.png"), lines)
    assert (tmp_path / "a.png").stat().st_size > 0
