"""A model small enough to train in tests, its config, and batches of noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ipt_jax.config import loading as configs
from ipt_jax.config import resolve
from ipt_jax.distributed import devices as devices_module
from ipt_jax.distributed import sharding as partition
from ipt_jax.model import IPT, build
from ipt_jax.step import state as state_module
from ipt_jax.step import train_step as step
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
    """A whole, resolved config of the small model."""
    base = {
        "model": MODEL,
        "optim": OPTIM,
        "tasks": ("sr2", "denoise50"),
        "batch_size": 32,
        "steps": 20,
        "data": {"source": "embedded"},
    }
    return resolve.resolve(configs.complete({**base, **changes}, overrides))


def model(plain: Mapping[str, Any]) -> IPT:
    return build(plain["model"], make_tasks(plain["tasks"]))


def batch(
    names: tuple[str, ...], rows: int, seed: int = 0, tile: int = 16
) -> dict[str, dict[str, np.ndarray]]:
    """`{task: {"lq", "hq"}}` of random numbers, of the dtypes that the pipeline gives."""
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


def start(
    plain: Mapping[str, Any], devices: int
) -> tuple[jax.sharding.Mesh, state_module.TrainState, Any]:
    """(mesh, first state, compiled step) on so many devices."""
    mesh = devices_module.make_mesh(devices)
    network = model(plain)
    fresh = jax.jit(
        lambda: state_module.init_state(network.init_params(plain["seed"]), plain),
        out_shardings=partition.replicated(mesh),
    )
    return mesh, fresh(), step.compile_step(network, plain, mesh)


def run(
    plain: Mapping[str, Any], devices: int, batches: list[Any]
) -> tuple[state_module.TrainState, list[dict[str, float]], Any]:
    """The state after these batches, the metrics of each, and the compiled step."""
    mesh, state, train_step = start(plain, devices)
    metrics = []
    for one in batches:
        state, values = train_step(state, partition.put_batch(one, mesh))
        metrics.append({k: float(v) for k, v in values.items()})
    return jax.device_get(state), metrics, train_step
