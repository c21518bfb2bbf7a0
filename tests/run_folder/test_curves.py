"""The plot of a run."""

from __future__ import annotations

import cv2

from ipt_jax.run_folder.curves import save_curves


def test_curves_of_an_empty_log_and_of_nan(tmp_path):
    from etils import epath

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
