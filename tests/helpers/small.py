"""A small model for tests, its config, and random batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ipt_jax.config.loading import complete
from ipt_jax.config.resolve import resolve
from ipt_jax.distributed import sharding
from ipt_jax.distributed.devices import make_mesh
from ipt_jax.model import IPT, build
from ipt_jax.step.state import TrainState, init_state
from ipt_jax.step.train_step import compile_step
from ipt_jax.tasks import TASKS, make_tasks

MODEL = dict(
    features=4,
    patch=4,
    heads=2,
    encoder_layers=2,
    decoder_layers=1,
    hidden=32,
    tile=16,
    start="identity",
    input_scale=127.5,
)
OPTIM = dict(
    schedule="cosine",
    learning_rate=1e-3,
    final_learning_rate=1e-5,
    warmup_steps=2,
    schedule_steps=20,
)


def config(*overrides: str, **changes: Any) -> dict[str, Any]:
    """Returns a complete, resolved config of the small model."""
    base = {
        "model": MODEL,
        "optim": OPTIM,
        "tasks": ("sr2", "denoise50"),
        "batch_size": 32,
        "steps": 20,
        "data": {"source": "embedded"},
    }
    return resolve(complete({**base, **changes}, overrides))


def model(config: Mapping[str, Any]) -> IPT:
    """Returns the network of a resolved config."""
    return build(config["model"], make_tasks(config["tasks"]))


def batch(
    names: tuple[str, ...], rows: int, seed: int = 0, tile: int = 16
) -> dict[str, dict[str, np.ndarray]]:
    """Returns `{task: {"lq", "hq"}}` of random numbers, with the dtypes of the pipeline."""
    rng = np.random.default_rng(seed)
    made = {}
    for name in names:
        scale = TASKS[name].scale
        hq = rng.integers(0, 256, (rows, tile * scale, tile * scale, 3)).astype(np.uint8)
        lq = rng.integers(0, 256, (rows, tile, tile, 3)).astype(
            np.uint8 if scale > 1 else np.float32
        )
        made[name] = {"lq": lq, "hq": hq}
    return made


def start(config: Mapping[str, Any], devices: int) -> tuple[jax.sharding.Mesh, TrainState, Any]:
    """Returns a mesh of so many devices, the first state on it and the compiled step."""
    mesh = make_mesh(devices)
    network = model(config)
    fresh = jax.jit(
        lambda: init_state(network.init_params(config["seed"]), config),
        out_shardings=sharding.replicated(mesh),
    )
    return mesh, fresh(), compile_step(network, config, mesh)


def run(
    config: Mapping[str, Any], devices: int, batches: list[Any]
) -> tuple[TrainState, list[dict[str, float]], Any]:
    """Trains on the batches; returns the state, the metrics of each step and the compiled step."""
    mesh, state, train_step = start(config, devices)
    metrics = []
    for one in batches:
        state, values = train_step(state, sharding.put_batch(one, mesh))
        metrics.append({k: float(v) for k, v in values.items()})
    return jax.device_get(state), metrics, train_step
