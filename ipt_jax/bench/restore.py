"""The speed of restoring a complete image, and of the network alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ipt_jax.distributed import devices
from ipt_jax.restore.restorer import Restorer
from ipt_jax.restore.tiling import Tiling


def measure_restore(
    restorer: Restorer,
    task: str | None,
    height: int,
    width: int,
    calls: int,
    batch: int,
    tiling: Tiling,
) -> dict[str, Any]:
    """Times restoring an image of noise. The first call, which compiles, does not count.

    Args:
      restorer: the model.
      task: one task or several, as for `Restorer.restore`.
      height, width: of the image, in pixels.
      calls: the number of timed calls.
      batch: tiles a call, for each device.
      tiling: how the image is cut into tiles.

    Returns:
      Times in seconds, rates in tiles/s and megapixels/s, and what was measured.
    """
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    names = [one.name for one in restorer.chain(task)]
    tiles = restorer.tiles(height, width, names, **tiling)

    def restore_image() -> None:
        strips = restorer.restore_strips(
            lambda top, bottom: image[top:bottom], height, width, names, batch=batch, **tiling
        )
        for _ in strips:
            pass

    model = restorer.model
    full_batch = np.zeros((batch * restorer.devices, model.tile, model.tile, 3), np.float32)
    first, seconds = _time_calls(restore_image, calls)

    def network(name: str) -> Callable[[], Any]:
        return lambda: jax.block_until_ready(restorer.bind(name)(full_batch))

    network_seconds = sum(_time_calls(network(name), calls)[1] for name in names)
    return {
        **devices.describe(),
        "tasks": ",".join(names),
        "width": width,
        "height": height,
        **tiling,
        "dtype": str(np.dtype(model.dtype)),
        "batch": len(full_batch),
        "tiles": tiles,
        "seconds": seconds,
        "first_s": first,
        "tiles_per_s": tiles / seconds,
        "megapixels_per_s": height * width / 1e6 / seconds,
        "network_tiles_per_s": len(full_batch) * len(names) / network_seconds,
    }


def _time_calls(call: Callable[[], Any], calls: int) -> tuple[float, float]:
    """Returns the seconds of a first call, and the median of the calls after it."""
    times = []
    for _ in range(calls + 1):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return times[0], sorted(times[1:])[(calls - 1) // 2]
