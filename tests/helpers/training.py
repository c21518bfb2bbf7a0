"""Small training runs: their images, configs and commands, and comparisons of their checkpoints."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time
from typing import Any

import cv2
import numpy as np
import small
from etils import epath
from ml_collections import ConfigDict

from ipt_jax import trees
from ipt_jax.checkpoints.checkpoints import Checkpoints
from ipt_jax.config.loading import complete
from ipt_jax.run_folder import metrics_log


def make_photographs(folder: pathlib.Path) -> pathlib.Path:
    """Fills a folder with eight small photographs, cut from those of scikit-image; returns it."""
    from ipt_jax.data.sources.embedded import embedded

    images = embedded("all")
    for i in range(8):
        image = images[i % 4][60 + 40 * (i // 4) :][:96, 100 + 60 * (i // 4) :][:, :96]
        cv2.imwrite(str(folder / f"{i}.png"), image[..., ::-1])
    return folder


def settings(folder: pathlib.Path, **changes: Any) -> dict[str, Any]:
    """Returns the values of a config for a small run of 40 steps on the images of a folder."""
    base: dict[str, Any] = {
        "model": small.MODEL,
        "optim": {**small.OPTIM, "ema": 0.9, "schedule_steps": 40},
        "tasks": ["sr2", "denoise50"],
        "batch_size": 8,
        "steps": 40,
        "devices": 1,
        "data": {"source": "folder", "dir": str(folder), "held_out": 2},
        "checkpoint": {"every": 10, "keep": 2, "keep_every": 20},
        "evaluate": {"every": 0},
        "log": {"every": 5},
    }
    for key, value in changes.items():
        base[key] = {**base[key], **value} if isinstance(value, dict) else value
    return base


def config(folder: pathlib.Path, **changes: Any) -> ConfigDict:
    """Returns the config of `settings`."""
    return complete(settings(folder, **changes))


def write_config(file: pathlib.Path, values: dict[str, Any]) -> pathlib.Path:
    """Writes a config file with these values; returns it."""
    file.write_text(
        "from ml_collections import ConfigDict\n"
        f"def get_config():\n    return ConfigDict({values!r})\n"
    )
    return file


def command(
    folder: pathlib.Path,
    workdir: pathlib.Path,
    tmp_path: pathlib.Path,
    *more: str,
    **changes: Any,
) -> list[str]:
    """Returns the command line of a run; its config file is written to `tmp_path`."""
    file = write_config(tmp_path / "config.py", settings(folder, **changes))
    base = [sys.executable, "-m", "ipt_jax", "pretrain"]
    return [*base, f"--config={file}", f"--workdir={workdir}", *more]


def lines(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the lines of a run's metrics, none if it has not written any."""
    file = epath.Path(workdir / "metrics.jsonl")
    return metrics_log.read_lines(file) if file.exists() else []


def wait_for_step(
    workdir: pathlib.Path, step: int, process: subprocess.Popen[Any], limit: float = 240
) -> None:
    """Waits until a run has logged a step, for which it has to log every step."""
    end = time.monotonic() + limit
    while time.monotonic() < end and process.poll() is None:
        steps = [line["step"] for line in lines(workdir)]
        if steps and steps[-1] >= step:
            return
        time.sleep(0.05)
    raise AssertionError(f"step {step} was not reached; exit code {process.poll()}")


def arrays(workdir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    """Returns every leaf of a checkpoint: parameters, moments, EMA, counters."""
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        return {
            f"{part}/{path}": leaf
            for part in ("params", "moments", "ema")
            for path, leaf in trees.paths(checkpoints.restore_params(part, step)[0])
        }


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    """Checks that two checkpoints are equal, to the bit."""
    assert a.keys() == b.keys() and len(a) > 50
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)
