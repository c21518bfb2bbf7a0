"""The loop starts each step before it reads the metrics of the last one; programs are cached."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import small

from ipt_jax.config import loading as configs
from ipt_jax.distributed import devices
from ipt_jax.train import loop, setup

pytest.importorskip("skimage", reason="needs scikit-image's photographs")


class Metric:
    """A metric of a step that records when it is read."""

    def __init__(self, events: list, step: int, value: float):
        self._events, self._step, self._value = events, step, value

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        self._events.append(("read", self._step))
        return np.asarray(self._value, dtype)


def test_a_step_is_under_way_before_the_one_before_is_read(monkeypatch, tmp_path):
    events: list[tuple[str, int]] = []

    def compile_step(model, plain, mesh):
        def step(state, batch):
            number = sum(kind == "dispatched" for kind, _ in events) + 1
            events.append(("dispatched", number))
            values = dict.fromkeys(("loss", "l1/sr2", "l1/denoise50", "grad_norm", "lr"), 1.0)
            values |= {"skipped": 0.0, "skipped_in_a_row": 0.0}
            return state, {key: Metric(events, number, value) for key, value in values.items()}

        return step

    monkeypatch.setattr(setup, "compile_step", compile_step)
    changes = {
        "model": small.MODEL,
        "optim": small.OPTIM,
        "tasks": ("sr2", "denoise50"),
        "batch_size": 8,
        "steps": 6,
        "devices": 1,
        "data": {"source": "embedded"},
        "evaluate": {"every": 0},
        "log": {"every": 1, "tensorboard": False},
    }
    loop.pretrain(configs.complete(changes), str(tmp_path / "run"))
    for number in range(1, 6):
        assert events.index(("dispatched", number + 1)) < events.index(("read", number))
    # The metrics of the last step are read after the loop.
    assert ("read", 6) in events
    assert not (tmp_path / "run" / "tensorboard").exists()


def in_process(code: str, **environment: str) -> None:
    clean = {key: value for key, value in os.environ.items() if key != "JAX_COMPILATION_CACHE_DIR"}
    clean |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr


def test_compiled_programs_are_kept_where_asked_or_where_the_environment_says(tmp_path):
    code = "import jax; from ipt_jax.distributed import devices; devices.cache_programs({!r});"
    code = (
        code.format(str(tmp_path / "run" / "compiled"))
        + " jax.jit(lambda x: x * 3)(1.0).block_until_ready()"
    )
    in_process(code)
    assert list((tmp_path / "run" / "compiled").iterdir())
    in_process(code.replace("run", "other"), JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine"))
    assert list((tmp_path / "mine").iterdir()) and not (tmp_path / "other").exists()


def test_the_command_keeps_them_in_the_workdir(monkeypatch, tmp_path):
    from ipt_jax.cli.app import main

    seen = []
    monkeypatch.setattr(devices, "cache_programs", seen.append)
    monkeypatch.setattr(loop, "pretrain", lambda *arguments: loop.Outcome(1, True, {}))
    assert main(["pretrain", "--config=configs/demo.py", f"--workdir={tmp_path}"]) == 0
    assert seen == [str(tmp_path / "compiled")]
    assert jax.config.jax_compilation_cache_dir != seen[0]
