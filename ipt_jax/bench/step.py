"""The speed of the training step, or of the network without gradients, on these devices."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ipt_jax.config import checks
from ipt_jax.data.crops import empty_pair
from ipt_jax.distributed import devices, sharding
from ipt_jax.errors import ConfigError
from ipt_jax.model import build, flops
from ipt_jax.model.dense import precision
from ipt_jax.model.ipt import kernel_name
from ipt_jax.step.state import init_state, state_shardings
from ipt_jax.step.train_step import compile_step
from ipt_jax.tasks import make_tasks


def measure_model(config: dict[str, Any], what: str, calls: int) -> dict[str, Any]:
    """Times the training step or the forward pass of a config on random batches.

    Args:
      config: a resolved config.
      what: "step" or "forward".
      calls: the number of timed calls.

    Returns:
      Times in seconds, rates in samples/s and TFLOP/s, memory in GB, and what was measured.

    Raises:
      ConfigError: there are too few devices, or the batch size does not divide by them.
    """
    try:
        mesh = devices.make_mesh(config["devices"])
    except ValueError as error:
        raise ConfigError(str(error)) from None
    tasks = make_tasks(config["tasks"])
    checks.check_batch(ConfigDict(config), len(tasks), mesh.size, 1)
    drawn = tasks if config["data"]["draw"] == "all" else tasks[:1]
    names = tuple(task.name for task in drawn)
    model = build(config["model"], tasks, mesh)
    host_batch = random_batch(model, drawn, config["batch_size"] // len(drawn))
    batch = sharding.put_batch(host_batch, mesh)
    params = jax.device_put(model.init_params(config["seed"]), sharding.replicated(mesh))

    began = time.perf_counter()
    if what == "step":
        state = jax.jit(
            lambda p: init_state(p, config), out_shardings=state_shardings(model, config, mesh)
        )(params)
        # The step needs the memory of these parameters.
        del params
        compiled = compile_step(model, config, mesh).lower(state, batch).compile()

        def call() -> Any:
            nonlocal state
            state, metrics = compiled(state, batch)
            return metrics
    else:
        lq = {name: pair["lq"] for name, pair in batch.items()}
        network = jax.jit(lambda p, x: model.apply({"params": p}, x, mesh.size)[0])
        compiled = network.lower(params, lq).compile()

        def call() -> Any:
            return compiled(params, lq)

    compile_s = time.perf_counter() - began
    times = time_calls(call, calls)
    seconds = statistics.median(times)
    count_flop = flops.step if what == "step" else flops.forward
    flop = count_flop(model, names, config["batch_size"])
    ceiling = product_rate(config["model"]["dtype"], mesh.size)
    memory = compiled.memory_analysis()
    return {
        "what": what,
        "device": jax.devices()[0].device_kind,
        "devices": mesh.size,
        "dtype": config["model"]["dtype"],
        "remat": config["model"]["remat"],
        "attention": kernel_name(model.kernel),
        "sharding": config["sharding"],
        "tasks": len(drawn),
        "batch": config["batch_size"],
        "calls": calls,
        "seconds": seconds,
        "seconds_least": min(times),
        "seconds_most": max(times),
        "samples_per_s": config["batch_size"] / seconds,
        "tflop_per_s": flop / seconds / 1e12,
        "product_tflop_per_s": ceiling / 1e12,
        # The MFU, relative to the rate that this device reaches instead of its published peak.
        "share_of_product": flop / seconds / ceiling,
        "compile_s": compile_s,
        # As the compiler planned it.
        "temporary_gb": memory.temp_size_in_bytes / 1e9 if memory else None,
        "arguments_gb": memory.argument_size_in_bytes / 1e9 if memory else None,
        # As the device counted it, including the 0.4 GB of `product_rate`.
        "peak_gb": devices.peak_memory() / 1e9 or None,
    }


def random_batch(model: Any, tasks: Any, rows: int) -> dict[str, dict[str, np.ndarray]]:
    """Returns `{task: {"lq", "hq"}}` of `rows` random pairs each, with the pipeline's dtypes."""
    rng = np.random.default_rng(0)
    pairs = {task.name: empty_pair(task, rows, model.tile) for task in tasks}
    for pair in pairs.values():
        for array in pair.values():
            array[:] = rng.integers(0, 256, array.shape)
    return pairs


def time_calls(call: Callable[[], Any], calls: int) -> list[float]:
    """Returns the seconds of each call, after two calls that do not count."""
    jax.block_until_ready([call() for _ in range(2)])
    seconds = []
    for _ in range(calls):
        began = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - began)
    return seconds


def product_rate(dtype: str, device_count: int) -> float:
    """Returns the FLOP/s of a large square matrix product on so many devices."""
    on_cpu = jax.default_backend() == "cpu"
    side = 2048 if on_cpu else 8192
    a = jax.random.normal(jax.random.key(0), (side, side)).astype(dtype)
    product = jax.jit(lambda x: jnp.matmul(x, x, precision=precision(x.dtype)))
    seconds = statistics.median(time_calls(lambda: product(a), 5))
    # Simulated devices share one processor, and a single product uses all of its cores.
    return 2.0 * side**3 / seconds * (1 if on_cpu else device_count)
