"""Restores an image with an exported ONNX file, without ipt_jax.

numpy cuts and blends the tiles, and onnxruntime runs the network:

    ipt export --weights runs/demo --format onnx --task sr2 --out sr2.onnx
    python examples/restore_onnx.py sr2.onnx photo.png restored.png

This script needs numpy, onnxruntime and Pillow. Its result is that of `ipt restore`.
"""

import argparse

import numpy as np
import onnxruntime
from PIL import Image


def starts(size: int, tile: int, overlap: int) -> list[int]:
    """Returns evenly spread starts of the fewest tiles that cover `size` pixels.

    Neighbouring tiles share at least `overlap` pixels.
    """
    if size <= tile:
        return [0]
    count = -(-(size - tile) // (tile - overlap)) + 1
    return [round(i * (size - tile) / (count - 1)) for i in range(count)]


def ramps(at: list[int], tile: int) -> np.ndarray:
    """Returns the weights of each tile along an axis, float32 `[tiles, tile]`.

    A weight is 1 in the middle of a tile and falls as sin^2 over the pixels that neighbours share.
    """
    centres = (np.arange(tile) + 0.5) / tile
    weights = np.ones((len(at), tile))
    for i, start in enumerate(at):
        before = (at[i - 1] + tile - start) / tile if i > 0 else 0.0
        after = (start + tile - at[i + 1]) / tile if i + 1 < len(at) else 0.0
        for share, distance in ((before, centres), (after, 1 - centres)):
            if share > 0:
                weights[i] *= np.sin(0.5 * np.pi * np.clip(distance / share, 0, 1)) ** 2
    return weights.astype(np.float32)


def restore(
    session: onnxruntime.InferenceSession, image: np.ndarray, overlap: int = 12, batch: int = 16
) -> np.ndarray:
    """Restores an image, uint8 `[H, W, 3]` -> uint8 `[H * scale, W * scale, 3]`.

    Args:
      session: the network.
      image: the image.
      overlap: minimum number of pixels that neighbouring tiles share.
      batch: tiles per call.
    """
    tile, scaled = session.get_inputs()[0].shape[1], session.get_outputs()[0].shape[1]
    scale = scaled // tile
    height, width = image.shape[:2]
    padded = np.pad(
        image, ((0, max(0, tile - height)), (0, max(0, tile - width)), (0, 0)), mode="symmetric"
    )
    rows, columns = (starts(size, tile, overlap) for size in padded.shape[:2])
    down, across = (ramps([x * scale for x in at], scaled) for at in (rows, columns))
    total = np.zeros((padded.shape[0] * scale, padded.shape[1] * scale, 3), np.float32)
    weight = np.zeros((*total.shape[:2], 1), np.float32)
    places = [(i, j) for i in range(len(rows)) for j in range(len(columns))]
    for first in range(0, len(places), batch):
        some = places[first : first + batch]
        tiles = np.stack([padded[rows[i] :, columns[j] :][:tile, :tile] for i, j in some])
        for (i, j), out in zip(some, session.run(None, {"patches": tiles.astype(np.float32)})[0]):
            y, x, w = rows[i] * scale, columns[j] * scale, np.outer(down[i], across[j])[..., None]
            total[y : y + scaled, x : x + scaled] += out * w
            weight[y : y + scaled, x : x + scaled] += w
    result = (total / weight)[: height * scale, : width * scale]
    return np.clip(np.floor(result + 0.5), 0, 255).astype(np.uint8)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="the .onnx file")
    parser.add_argument("input", help="the image to restore")
    parser.add_argument("output", help="the file to write")
    parser.add_argument(
        "--overlap",
        type=int,
        default=12,
        help="minimum number of pixels that neighbouring tiles share",
    )
    options = parser.parse_args()
    session = onnxruntime.InferenceSession(
        options.model, providers=onnxruntime.get_available_providers()
    )
    image = np.asarray(Image.open(options.input).convert("RGB"))
    Image.fromarray(restore(session, image, options.overlap)).save(options.output)


if __name__ == "__main__":
    main()
