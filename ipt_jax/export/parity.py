"""Compares a written file with the model on random patches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ipt_jax.restore.restorer import Restorer

# (patches float32 `[B, tile, tile, 3]` in 0..255, task) -> `[B, tile * scale, tile * scale, 3]`.
Run = Callable[[np.ndarray, str], np.ndarray]

# Bounds of the largest difference over the largest magnitude, by dtype.
BOUNDS = {"float32": 1e-5, "float16": 5e-3}


def random_patches(tile: int, count: int = 3, seed: int = 0) -> np.ndarray:
    """Returns random patches: in turn noise, a slope, and a flat patch with an edge.

    Args:
      tile: side of a patch in pixels.
      count: number of patches.
      seed: seed of the random numbers.

    Returns:
      float32 `[count, tile, tile, 3]`, 0..255.
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
    """Returns the largest difference from the model's outputs over their largest magnitude.

    The result is the maximum over all tasks, and over one patch and several patches. It is infinite
    where a shape is wrong or a value is not finite.

    Args:
      restorer: the model.
      run: a function that runs the written file.
    """
    worst = 0.0
    for name in restorer.tasks:
        for count in (3, 1):
            given = random_patches(restorer.model.tile, count)
            want = restorer.apply(given, name)
            have = np.asarray(run(given, name))
            if have.shape != want.shape or not np.isfinite(have).all():
                return float("inf")
            worst = max(worst, float(np.abs(have - want).max() / np.abs(want).max()))
    return worst


def largest_difference_on_images(restorer: Restorer, run: Run) -> float:
    """Returns the largest difference from `restore_all` over the largest magnitude.

    The sizes are smaller than a tile, a tile, and several tiles that spread unevenly. The result is
    infinite where a shape is wrong or a value is not finite.

    Args:
      restorer: the model.
      run: a function that runs the written file on images of any size, `[B, H, W, 3]`.
    """
    worst, tile = 0.0, restorer.model.tile
    for name in restorer.tasks:
        for height, width in ((tile, tile), (tile // 3, tile + 1), (2 * tile + 5, 3 * tile + 2)):
            side = max(height, width)
            given = random_patches(side, 3, seed=height)[:, :height, :width]
            want = np.stack(list(restorer.restore_all(given, name)))
            have = np.asarray(run(given, name))
            if have.shape != want.shape or not np.isfinite(have).all():
                return float("inf")
            worst = max(worst, float(np.abs(have - want).max() / np.abs(want).max()))
    return worst
