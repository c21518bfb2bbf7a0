"""The cost of fingerprints: saves and restores a state with and without them, in several rounds.

python benchmarks/checkpoint_cost.py [--mb 1024] [--rounds 3] [--folder DIR]
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from ipt_jax.checkpoints import checkpoints
from ipt_jax.checkpoints.fingerprints import fingerprints


def state_of(megabytes: int) -> dict[str, jax.Array]:
    """Returns float32 parameters in arrays of 16 MB, like those of IPT's body."""
    keys = jax.random.split(jax.random.key(0), megabytes // 16)
    return {
        f"layer{i}": jax.block_until_ready(jax.random.normal(key, (2048, 2048)))
        for i, key in enumerate(keys)
    }


def timed(action: Callable[[], Any]) -> tuple[float, float]:
    """Returns the seconds of an action, and the CPU seconds of all threads."""
    began, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(action())
    return time.perf_counter() - began, time.process_time() - cpu


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder")
    options = parser.parse_args()
    state = state_of(options.mb)
    gigabytes = sum(x.nbytes for x in state.values()) / 1e9
    found: dict[str, list[tuple[float, float]]] = {}
    none = mock.patch.object(checkpoints, "fingerprints", lambda arrays: ["0" * 16] * len(arrays))
    # Compiles before anything is timed.
    fingerprints(list(state.values()))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        # The first round does not count, and the order alternates.
        for step in range(options.rounds + 1):
            for how in ("with", "without")[:: 1 if step % 2 else -1]:
                with (
                    none if how == "without" else contextlib.nullcontext(),
                    checkpoints.Checkpoints(
                        f"{folder}/{how}", keep=1, asynchronous=False
                    ) as folder_of_steps,
                ):
                    saved = timed(lambda step=step, to=folder_of_steps: to.save(step, state, {}))
                    read = timed(
                        lambda back=folder_of_steps: back.restore(jax.eval_shape(lambda: state))[0]
                    )
                if step:
                    found.setdefault(f"save {how}", []).append(saved)
                    found.setdefault(f"restore {how}", []).append(read)
            if step:
                found.setdefault("fingerprints alone", []).append(
                    timed(lambda: fingerprints(list(state.values())))
                )
    best = {
        name: tuple(min(column) / gigabytes for column in zip(*rows, strict=True))
        for name, rows in found.items()
    }
    print(
        f"{gigabytes:.2f} GB in {len(state)} arrays, {jnp.zeros(()).devices()}; best of "
        f"{options.rounds}, a GB:"
    )
    for name, (seconds, cpu) in best.items():
        print(f"  {name:20} {seconds:6.2f} s  {cpu:6.2f} CPU s")
    for name in ("save", "restore"):
        ratios = [a / b for a, b in zip(best[f"{name} with"], best[f"{name} without"], strict=True)]
        print(f"  {name}, with to without: {ratios[0]:.2f} in time, {ratios[1]:.2f} in CPU time")


if __name__ == "__main__":
    main()
