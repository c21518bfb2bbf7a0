"""Whether a written file computes what the model does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ipt_jax.restore.restorer import Restorer

# (patches `[B, tile, tile, 3]` float32 in 0..255, task) -> `[B, tile * scale, tile * scale, 3]`.
Run = Callable[[np.ndarray, str], np.ndarray]

# Largest difference over largest magnitude
BOUNDS = {"float32": 1e-5, "float16": 5e-3}


def patches(tile: int, count: int = 3, seed: int = 0) -> np.ndarray:
    """Random patches, float32 `[count, tile, tile, 3]`: noise, a slope, and a flat one with an
    edge, in turn.
    """
    rng = np.random.default_rng(seed)
    made = rng.uniform(0, 255, (count, tile, tile, 3)).astype(np.float32)
    for i in range(1, count, 3):
        made[i] = np.linspace(0, 255, tile)[:, None, None] * rng.uniform(0, 1, 3)
    for i in range(2, count, 3):
        made[i, :, : tile // 3] = rng.uniform(0, 255, 3)
        made[i, :, tile // 3 :] = rng.uniform(0, 255, 3)
    return made


def largest_difference(restorer: Restorer, run: Run) -> float:
    """The largest difference between what `run` gives and what the model gives, over the largest
    magnitude of the latter.

    Of all tasks the worst; infinite where a shape is wrong or a value is not finite. One patch and
    several are tried.
    """
    worst = 0.0
    for name in restorer.tasks:
        for count in (3, 1):
            given = patches(restorer.model.tile, count)
            want = restorer.apply(given, name)
            have = np.asarray(run(given, name))
            if have.shape != want.shape or not np.isfinite(have).all():
                return float("inf")
            worst = max(worst, float(np.abs(have - want).max() / np.abs(want).max()))
    return worst
