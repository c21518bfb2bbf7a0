"""Writes images of flat colours, gradients, shapes and text, as an addition to photographs.

    python benchmarks/synthetic_images.py --out photographs/synthetic --count 24

Photographs contain hardly any area of one colour, and almost no saturated one. A network that has
seen photographs alone changes such areas: in a plain green field by up to 36 levels of 0..255.
Drawings, screenshots and skies of one colour need these images in training.

Each image is 512x512 pixels, uint8 RGB, PNG. The same count and seed give the same images.
"""

from __future__ import annotations

import argparse
import pathlib

import cv2
import numpy as np

SIDE = 512
LETTERS = "ABCDEFGHIKLMNOPRSTUVWXYZ abcdefghiklmnoprstuvwxyz 0123456789"


def colour(rng: np.random.Generator) -> tuple[float, ...]:
    """Returns a random colour: saturated, grey or any, each as often."""
    kind = int(rng.integers(3))
    if kind == 0:
        return tuple(float(v) for v in 255 * rng.integers(0, 2, 3))
    if kind == 1:
        return (float(rng.integers(256)),) * 3
    return tuple(float(v) for v in rng.integers(0, 256, 3))


def fields(rng: np.random.Generator) -> np.ndarray:
    """Returns flat fields of 128x128 pixels, `[512, 512, 3]`."""
    colours = np.array([colour(rng) for _ in range(16)], np.uint8).reshape(4, 4, 3)
    return colours.repeat(128, 0).repeat(128, 1)


def gradients(rng: np.random.Generator) -> np.ndarray:
    """Returns four linear gradients between two colours in random directions."""
    image = np.empty((SIDE, SIDE, 3), np.uint8)
    half = SIDE // 2
    y, x = np.mgrid[:half, :half] / (half - 1)
    for top in (0, half):
        for left in (0, half):
            angle = rng.uniform(0, 2 * np.pi)
            way = x * np.cos(angle) + y * np.sin(angle)
            way = (way - way.min()) / (way.max() - way.min())
            ends = np.array([colour(rng), colour(rng)])
            part = ends[0] + way[..., None] * (ends[1] - ends[0])
            image[top : top + half, left : left + half] = np.rint(part)
    return image


def drawing(rng: np.random.Generator) -> np.ndarray:
    """Returns shapes, lines and text with smooth edges on a background of one colour."""
    image = np.empty((SIDE, SIDE, 3), np.uint8)
    image[:] = colour(rng)
    for _ in range(24):
        a, b = (tuple(int(v) for v in rng.integers(0, SIDE, 2)) for _ in range(2))
        kind, ink = int(rng.integers(4)), colour(rng)
        if kind == 0:
            cv2.line(image, a, b, ink, int(rng.integers(1, 6)), cv2.LINE_AA)
        elif kind == 1:
            cv2.circle(image, a, int(rng.integers(8, 90)), ink, -1, cv2.LINE_AA)
        elif kind == 2:
            end = (a[0] + int(rng.integers(10, 160)), a[1] + int(rng.integers(10, 160)))
            cv2.rectangle(image, a, end, ink, -1)
        else:
            text = "".join(LETTERS[i] for i in rng.integers(0, len(LETTERS), 12))
            font, size = int(rng.integers(0, 5)), float(rng.uniform(0.4, 2.0))
            cv2.putText(image, text, (a[0] - 100, a[1]), font, size, ink, 1, cv2.LINE_AA)
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the folder to write to")
    parser.add_argument("--count", type=int, default=24, help="the number of images")
    parser.add_argument("--seed", type=int, default=0, help="the seed of all images")
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    kinds = (fields, gradients, drawing)
    for index in range(flags.count):
        image = kinds[index % 3](np.random.default_rng((flags.seed, index)))
        cv2.imwrite(str(flags.out / f"{index:04d}.png"), np.ascontiguousarray(image[..., ::-1]))


if __name__ == "__main__":
    main()
