"""Runs whose training step is a stand-in, so that nothing is compiled for it."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import small
from pytest import MonkeyPatch
from training import write_config

from ipt_jax.cli.app import main
from ipt_jax.train import setup, validation

METRICS = {"loss": 9.0, "grad_norm": 1.0, "lr": 1e-3, "skipped": 0.0, "skipped_in_a_row": 0.0}


def replace_step(
    patch: MonkeyPatch, note: Callable[[int], dict[str, float] | None] = lambda step: None
) -> None:
    """Lets runs count their steps instead of training.

    Args:
      patch: of the test.
      note: called with the number of each step; returns metrics, or None for the usual ones.
    """

    def compile_step(model: Any, config: Any, mesh: Any) -> Callable[..., Any]:
        def step(state: Any, batch: Any) -> Any:
            number = int(state.step) + 1
            losses = {f"l1/{name}": 9.0 for name in batch}
            metrics = METRICS | losses | (note(number) or {})
            return state.replace(step=state.step + 1), {
                key: np.float32(value) for key, value in metrics.items()
            }

        return step

    patch.setattr(setup, "compile_step", compile_step)


def replace_scores(patch: MonkeyPatch, evaluated: list[int]) -> None:
    """Lets every evaluation give the same score, and notes its step."""

    def score(self: Any, state: Any, step: int, *more: Any) -> dict[str, dict[str, float]]:
        evaluated.append(step)
        return {"denoise50": {"psnr_y": 20.0}}

    patch.setattr(validation.Validator, "__call__", score)


def values(folder: pathlib.Path, **changes: Any) -> dict[str, Any]:
    """Returns a config's values, by dotted keys, for a run of six steps of one task."""
    return {
        **{f"model.{key}": value for key, value in small.MODEL.items()},
        "tasks": ["denoise50"],
        "batch_size": 4,
        "devices": 1,
        "steps": 6,
        "data.dir": str(folder),
        "evaluate.every": 0,
        "evaluate.overlap": 4,
        **changes,
    }


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Returns nested dicts from dotted keys."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *groups, last = key.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    return tree


def run(
    folder: pathlib.Path,
    workdir: pathlib.Path,
    *words: str,
    command: str = "pretrain",
    **changes: Any,
) -> int:
    """Trains in a folder by the command line; returns its exit code.

    Args:
      folder: the images.
      workdir: the run's folder; its config file lies beside it.
      words: further flags.
      command: "pretrain" or "finetune".
      changes: values of config keys, by dotted keys.
    """
    file = workdir.parent / f"{workdir.name}.py"
    write_config(file, nested(values(folder, **changes)))
    return main([command, f"--config={file}", f"--workdir={workdir}", *words])
