"""Tiles in batches of a fixed size, with the device and the host working at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from ipt_jax.restore.network import Apply

Place = TypeVar("Place")


class Tile(NamedTuple, Generic[Place]):
    """A tile to restore.

    Attributes:
      pixels: `[tile, tile, 3]`, uint8 or float, 0..255.
      place: where the output belongs.
    """

    pixels: np.ndarray
    place: Place


def run_batches(
    apply: Apply, tiles: Iterable[Tile[Place]], *, batch: int, tile: int
) -> Iterator[list[tuple[Place, np.ndarray]]]:
    """Restores tiles in calls of `batch` tiles, so that one compiled program serves all calls.

    Each call starts before the outputs of the previous call are read (double buffering). Where the
    last batch is short, black tiles fill it and their outputs are dropped.

    Args:
      apply: `float32 [batch, tile, tile, 3] -> [batch, tile * scale, tile * scale, 3]`, 0..255.
      tiles: the tiles, which are drawn when a batch needs them.
      batch: tiles per call.
      tile: side of a tile in pixels.

    Yields:
      For each call the places of its tiles and their outputs, float32
      `[tile * scale, tile * scale, 3]`, in the order of the tiles.
    """
    running: tuple[list[Tile[Place]], Any] | None = None
    waiting: list[Tile[Place]] = []
    for one in tiles:
        waiting.append(one)
        if len(waiting) == batch:
            started = waiting, apply(_stacked(waiting, batch, tile))
            waiting = []
            if running is not None:
                yield _outputs(*running)
            running = started
    if waiting:
        started = waiting, apply(_stacked(waiting, batch, tile))
        if running is not None:
            yield _outputs(*running)
        running = started
    if running is not None:
        yield _outputs(*running)


def _stacked(tiles: list[Tile[Place]], batch: int, tile: int) -> np.ndarray:
    pixels = np.zeros((batch, tile, tile, 3), np.float32)
    for slot, one in enumerate(tiles):
        pixels[slot] = one.pixels
    return pixels


def _outputs(tiles: list[Tile[Place]], outputs: Any) -> list[tuple[Place, np.ndarray]]:
    # np.asarray waits for the device.
    read = np.asarray(outputs, np.float32)
    return [(one.place, read[slot]) for slot, one in enumerate(tiles)]
