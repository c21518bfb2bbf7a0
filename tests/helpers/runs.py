"""Weights without training: random parameters, and a run's folder with them."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import small

from ipt_jax.checkpoints.checkpoints import Checkpoints
from ipt_jax.model import IPT
from ipt_jax.step.state import init_state
from ipt_jax.weights.state_dict import abstract


def random_params(model: IPT, seed: int) -> dict[str, Any]:
    """Returns random parameters, drawn by numpy because compiling the start takes seconds."""
    rng = np.random.default_rng(seed)
    shapes = abstract(model)
    return jax.tree.map(
        lambda s: (rng.normal(size=s.shape) / max(1, s.shape[-1]) ** 0.5).astype(np.float32), shapes
    )


def make_run(
    folder: pathlib.Path,
    steps: tuple[int, ...] = (20,),
    tasks: Any = ("sr2", "denoise50"),
    ema: float = 0.9,
) -> dict[str, Any]:
    """Writes a run's folder and returns the run's config.

    The folder has a checkpoint for each of the steps. The step is the seed of its parameters.
    """
    config = small.config(f"optim.ema={ema}", tasks=tasks, batch_size=16 * len(tasks))
    folder.mkdir(parents=True, exist_ok=True)
    meta = {"config": config, "fingerprint": "f00d", "data": {}, "versions": {}}
    (folder / "config.json").write_text(json.dumps(meta))
    model = small.model(config)
    with Checkpoints(folder / "checkpoints", asynchronous=False, keep=9) as checkpoints:
        for number in steps:
            params = jax.tree.map(jnp.asarray, random_params(model, number))
            state = init_state(params, config)
            if ema:
                state = state.replace(ema=jax.tree.map(lambda x: x * 0.5, params))
            checkpoints.save(number, state.replace(step=jnp.asarray(number, jnp.int32)), meta)
    return config
