"""Small weights without a training run: random parameters, and a run's folder that holds them."""

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
from ipt_jax.step import state as state_module
from ipt_jax.weights import state_dict as weights


def random_params(model: IPT, seed: int) -> dict[str, Any]:
    """Parameters that make a model do something; drawn with numpy, since compiling a start takes
    seconds.
    """
    rng = np.random.default_rng(seed)
    shapes = weights.abstract(model)
    return jax.tree.map(
        lambda s: (rng.normal(size=s.shape) / max(1, s.shape[-1]) ** 0.5).astype(np.float32), shapes
    )


def make_run(
    folder: pathlib.Path,
    steps: tuple[int, ...] = (20,),
    tasks: Any = ("sr2", "denoise50"),
    ema: float = 0.9,
) -> dict[str, Any]:
    """A run's folder with a checkpoint for each step, its parameters drawn from the step; returns
    its config.
    """
    plain = small.config(f"optim.ema={ema}", tasks=tasks, batch_size=16 * len(tasks))
    folder.mkdir(parents=True, exist_ok=True)
    meta = {"config": plain, "fingerprint": "f00d", "data": {}, "versions": {}}
    (folder / "config.json").write_text(json.dumps(meta))
    model = small.model(plain)
    with Checkpoints(folder / "checkpoints", asynchronous=False, keep=9) as checkpoints:
        for number in steps:
            params = jax.tree.map(jnp.asarray, random_params(model, number))
            state = state_module.init_state(params, plain)
            if ema:
                state = state.replace(ema=jax.tree.map(lambda x: x * 0.5, params))
            checkpoints.save(number, state.replace(step=jnp.asarray(number, jnp.int32)), meta)
    return plain
