"""Restores a whole picture with an exported ONNX file: numpy for tiles and blending, onnxruntime
for the network.

    ipt export --weights runs/demo --format onnx --task sr2 --out sr2.onnx
    python examples/restore_onnx.py sr2.onnx photo.png restored.png

Needs numpy, onnxruntime and Pillow, and nothing of ipt_jax; gives the picture that `ipt restore`
gives.
"""

import argparse

import numpy as np
import onnxruntime
from PIL import Image


def starts(size: int, tile: int, overlap: int) -> list[int]:
    """Starts of the fewest tiles that cover `size` pixels and overlap by at least `overlap`, evenly
    spread.
    """
    if size <= tile:
        return [0]
    count = -(-(size - tile) // (tile - overlap)) + 1
    return [round(i * (size - tile) / (count - 1)) for i in range(count)]


def ramps(at: list[int], tile: int) -> np.ndarray:
    """Each tile's weights along an axis, `[tiles, tile]`: 1 in the middle, a sin^2 ramp over what
    it shares.
    """
    centres = (np.arange(tile) + 0.5) / tile
    weights = np.ones((len(at), tile))
    for i, start in enumerate(at):
        if i > 0:
            share = (at[i - 1] + tile - start) / tile
            weights[i] *= (
                np.sin(0.5 * np.pi * np.clip(centres / share, 0, 1)) ** 2 if share > 0 else 1
            )
        if i + 1 < len(at):
            share = (start + tile - at[i + 1]) / tile
            weights[i] *= (
                np.sin(0.5 * np.pi * np.clip((1 - centres) / share, 0, 1)) ** 2 if share > 0 else 1
            )
    return weights.astype(np.float32)


def restore(
    session: onnxruntime.InferenceSession, image: np.ndarray, overlap: int = 12, batch: int = 16
) -> np.ndarray:
    """uint8 `[H, W, 3]` -> uint8 `[H * scale, W * scale, 3]`."""
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
    whole = (total / weight)[: height * scale, : width * scale]
    return np.clip(np.floor(whole + 0.5), 0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="the .onnx file")
    parser.add_argument("input", help="a picture")
    parser.add_argument("output", help="where the result goes")
    parser.add_argument(
        "--overlap", type=int, default=12, help="pixels that neighbouring tiles share at least"
    )
    options = parser.parse_args()
    session = onnxruntime.InferenceSession(
        options.model, providers=onnxruntime.get_available_providers()
    )
    image = np.asarray(Image.open(options.input).convert("RGB"))
    Image.fromarray(restore(session, image, options.overlap)).save(options.output)


if __name__ == "__main__":
    main()
