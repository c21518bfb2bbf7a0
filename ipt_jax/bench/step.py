"""`ipt bench step` and `ipt bench forward`: how fast the training step and the network run on these
devices.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

ABOUT = """The numbers are medians over the timed calls: samples/s, TFLOP/s by formula (model/flops.py), and their share of
what a plain matrix product of the same dtype reaches on the same devices in the same run. Prints one JSON object last."""


def add_parser(commands: Any) -> None:
    """`ipt bench step`, `ipt bench forward`."""
    for name, what in (("step", "the training step"), ("forward", "the network without gradients")):
        command = commands.add_parser(
            name, allow_abbrev=False, help=f"time {what}", description=f"Times {what}. {ABOUT}"
        )
        command.add_argument("--config", required=True, metavar="FILE", help="a config file")
        command.add_argument(
            "--batch",
            type=int,
            default=0,
            metavar="N",
            help="samples a call (default: the config's)",
        )
        command.add_argument(
            "--dtype", choices=("float32", "bfloat16"), help="computed in (default: the config's)"
        )
        command.add_argument(
            "--devices",
            type=int,
            default=0,
            metavar="N",
            help="of this host (default: the config's)",
        )
        command.add_argument(
            "--calls", type=int, default=10, metavar="N", help="timed calls (default: 10)"
        )
        command.add_argument("--json", metavar="FILE", help="also write the JSON object there")
        command.set_defaults(run=run, what=name)


def run(options: argparse.Namespace) -> int:
    """Runs either command.

    Raises:
      ConfigError: no such config, or a batch that does not divide.
    """
    import pathlib

    from ipt_jax.config import loading as configs
    from ipt_jax.config import resolve

    flags = {"batch_size": options.batch, "model.dtype": options.dtype, "devices": options.devices}
    config = configs.load(
        options.config,
        [*options.overrides, *(f"{key}={value}" for key, value in flags.items() if value)],
    )
    found = measure(resolve.resolve(config), options.what, max(1, options.calls))
    for key, value in found.items():
        print(f"{key:<22} {value:.4g}" if isinstance(value, float) else f"{key:<22} {value}")
    text = json.dumps(found)
    if options.json:
        pathlib.Path(options.json).write_text(text + "\n")
    print(text)
    return 0


def measure(plain: dict[str, Any], what: str, calls: int) -> dict[str, Any]:
    """Times "step" or "forward" of a resolved config on random batches.

    Raises:
      ConfigError: the batch does not divide by the devices, or there are fewer of them.
    """
    import jax
    from ml_collections import ConfigDict

    from ipt_jax import errors
    from ipt_jax.config import checks
    from ipt_jax.distributed import devices as devices_module
    from ipt_jax.distributed import sharding as partition
    from ipt_jax.model import build, flops
    from ipt_jax.step.state import init_state, state_shardings
    from ipt_jax.step.train_step import compile_step
    from ipt_jax.tasks import make_tasks

    try:
        mesh = devices_module.make_mesh(plain["devices"])
    except ValueError as error:
        raise errors.ConfigError(str(error)) from None
    tasks = make_tasks(plain["tasks"])
    checks.check_batch(ConfigDict(plain), len(tasks), mesh.size, 1)
    drawn = tasks if plain["data"]["draw"] == "all" else tasks[:1]
    names = tuple(task.name for task in drawn)
    model, whole = build(plain["model"], tasks), partition.replicated(mesh)
    batch = partition.put_batch(random_batch(model, drawn, plain["batch_size"] // len(drawn)), mesh)
    params = jax.device_put(model.init_params(plain["seed"]), whole)

    began = time.perf_counter()
    if what == "step":
        state = jax.jit(
            lambda p: init_state(p, plain), out_shardings=state_shardings(model, plain, mesh)
        )(params)
        del params
        compiled = compile_step(model, plain, mesh).lower(state, batch).compile()

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
    times = timed(call, calls)
    seconds = statistics.median(times)
    work = (flops.step if what == "step" else flops.forward)(model, names, plain["batch_size"])
    ceiling = product_rate(plain["model"]["dtype"], mesh.size)
    memory = compiled.memory_analysis()
    return {
        "what": what,
        "device": jax.devices()[0].device_kind,
        "devices": mesh.size,
        "dtype": plain["model"]["dtype"],
        "remat": plain["model"]["remat"],
        "sharding": plain["sharding"],
        "tasks": len(drawn),
        "batch": plain["batch_size"],
        "calls": calls,
        "seconds": seconds,
        "seconds_least": min(times),
        "seconds_most": max(times),
        "samples_per_s": plain["batch_size"] / seconds,
        "tflop_per_s": work / seconds / 1e12,
        "product_tflop_per_s": ceiling / 1e12,
        # MFU, against what this device really does
        "share_of_product": work / seconds / ceiling,
        "compile_s": compile_s,
        # As the compiler planned it
        "temporary_gb": memory.temp_size_in_bytes / 1e9 if memory else None,
        "arguments_gb": memory.argument_size_in_bytes / 1e9 if memory else None,
        # As the device counted it, with the product's 0.4 GB
        "peak_gb": devices_module.peak_memory() / 1e9 or None,
    }


def random_batch(model: Any, tasks: Any, rows: int) -> dict[str, dict[str, Any]]:
    """`{task: {"lq", "hq"}}` of `rows` pairs of random numbers each, of the dtypes that the
    pipeline gives.
    """
    import numpy as np

    from ipt_jax.data.crops import empty_pair

    rng = np.random.default_rng(0)
    pairs = {task.name: empty_pair(task, rows, model.tile) for task in tasks}
    for pair in pairs.values():
        for part in pair.values():
            part[:] = rng.integers(0, 256, part.shape)
    return pairs


def timed(call: Callable[[], Any], calls: int) -> list[float]:
    """Seconds of each call, after two that do not count."""
    import jax

    jax.block_until_ready([call() for _ in range(2)])
    seconds = []
    for _ in range(calls):
        began = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - began)
    return seconds


def product_rate(dtype: str, devices: int) -> float:
    """FLOP/s of a large square matrix product on one device, times the devices."""
    import jax
    import jax.numpy as jnp

    from ipt_jax.model.layers import precision

    side = 2048 if jax.default_backend() == "cpu" else 8192
    a = jax.random.normal(jax.random.key(0), (side, side)).astype(dtype)
    product = jax.jit(lambda x: jnp.matmul(x, x, precision=precision(x.dtype)))
    # Simulated devices share one processor, which a single product already fills.
    return (
        2.0
        * side**3
        / statistics.median(timed(lambda: product(a), 5))
        * (1 if jax.default_backend() == "cpu" else devices)
    )
