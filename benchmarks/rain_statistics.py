"""Compares our rain with that of Rain100L: coverage, intensity, orientation and size of streaks.

    python benchmarks/rain_statistics.py --rain100l DIR [--plot FILE.png] [--json FILE]
        [--draws 4] [--seed 0]

DIR has `rainy/` and `clean/` with equal file names. Our rain is drawn over the same clean images,
rounded and clipped like files, and measured in the same way. The rain layer of an image is the
largest difference of its three channels, because the darkest channel saturates last. Prints means
and standard deviations over the images.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from ipt_jax.degradations.rain import Rain
from ipt_jax.metrics import psnr

THRESHOLDS = (2, 10, 30, 60)
LAGS = np.arange(0, 80, 0.25)


def read_image(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise SystemExit(f"{path} is not a readable image")
    return np.ascontiguousarray(image[..., ::-1])


def layer_of(rainy: np.ndarray, clean: np.ndarray) -> np.ndarray:
    return (rainy.astype(np.float32) - clean.astype(np.float32)).max(axis=2)


def orientation(layer: np.ndarray) -> tuple[float, float]:
    """Returns the angle of the streaks and its coherence, 0..1.

    The angle is in degrees from the vertical, positive if the top leans to the right.
    """
    smooth = cv2.GaussianBlur(layer, (0, 0), 1.0)
    dx, dy = cv2.Scharr(smooth, cv2.CV_32F, 1, 0), cv2.Scharr(smooth, cv2.CV_32F, 0, 1)
    xx, yy, xy = (float(np.mean(v)) for v in (dx * dx, dy * dy, dx * dy))
    # The direction of the strongest gradient, from x towards y, which points down.
    across = 0.5 * np.degrees(np.arctan2(2 * xy, xx - yy))
    return float(across), float(np.hypot(xx - yy, 2 * xy) / max(xx + yy, 1e-12))


def half_height(profile: np.ndarray) -> float:
    """Returns the full width at half height of an autocorrelation that is sampled at LAGS."""
    below = np.flatnonzero(profile < 0.5 * profile[0])
    return float(2 * LAGS[below[0]]) if len(below) else float(2 * LAGS[-1])


def streak_size(layer: np.ndarray, angle: float) -> tuple[float, float]:
    """Returns the widths of the autocorrelation along and across the streaks, in pixels."""
    centred = layer - layer.mean()
    spectrum = np.fft.rfft2(centred, s=[2 * n for n in layer.shape])
    correlation = np.fft.fftshift(
        np.fft.irfft2(np.abs(spectrum) ** 2, s=[2 * n for n in layer.shape])
    )
    overlap = [np.maximum(n - np.abs(np.arange(-n, n)), 1) for n in layer.shape]
    correlation = (correlation / np.outer(*overlap)).astype(np.float32)
    sine, cosine = np.sin(np.radians(angle)), np.cos(np.radians(angle))
    row, column = layer.shape
    sizes = []
    for dx, dy in ((sine, -cosine), (cosine, sine)):
        x, y = (column + LAGS * dx).astype(np.float32), (row + LAGS * dy).astype(np.float32)
        sizes.append(half_height(cv2.remap(correlation, x[None], y[None], cv2.INTER_LINEAR)[0]))
    return sizes[0], sizes[1]


def statistics(rainy: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    layer = layer_of(rainy, clean)
    angle, coherence = orientation(layer)
    along, across = streak_size(layer, angle)
    blocks = cv2.resize(
        layer, (layer.shape[1] // 32, layer.shape[0] // 32), interpolation=cv2.INTER_AREA
    )
    pieces = cv2.connectedComponents((layer > 10).astype(np.uint8))[0] - 1
    return {
        **{f"share above {t} (%)": float(np.mean(layer > t) * 100) for t in THRESHOLDS},
        "mean": float(layer.mean()),
        "mean where above 10": float(layer[layer > 10].mean()) if (layer > 10).any() else 0.0,
        "99th percentile": float(np.percentile(layer, 99)),
        "peak (99.9 %)": float(np.percentile(layer, 99.9)),
        "log10 mean square": float(np.log10(np.mean(layer**2) + 1e-6)),
        "pieces above 10, a 1000 px": pieces / layer.size * 1000,
        "unevenness (32 px blocks)": float(blocks.std() / max(blocks.mean(), 1e-6)),
        "angle from upright (deg)": angle,
        "angle without sign (deg)": abs(angle),
        "coherence": coherence,
        "length (px)": along,
        "width (px)": across,
        "PSNR-Y (dB)": psnr(rainy, clean),
    }


def draw(clean: np.ndarray, rain: Rain, rng: np.random.Generator) -> np.ndarray:
    return np.floor(rain(clean, rng) + 0.5).astype(np.uint8)


def plot(path: str, real: list[np.ndarray], ours: list[np.ndarray], size: int = 240) -> None:
    """Real crops on the left, ours on the right, doubled in brightness."""
    halves = []
    for side in (real, ours):
        crops = [np.clip(2 * layer[40 : 40 + size, 40 : 40 + size], 0, 255) for layer in side[:9]]
        halves.append(np.vstack([np.hstack(crops[i : i + 3]) for i in range(0, 9, 3)]))
    line = np.full((3 * size, 12), 255.0)
    cv2.imwrite(path, np.hstack([halves[0], line, halves[1]]).astype(np.uint8))


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument(
        "--rain100l", required=True, type=Path, help="folder with rainy/ and clean/"
    )
    parser.add_argument(
        "--plot", help="write crops of nine rain layers, real and ours, to this image"
    )
    parser.add_argument("--json", help="also write all numbers to this file")
    parser.add_argument("--draws", type=int, default=4, help="our images for each clean image")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    names = sorted(p.name for p in (arguments.rain100l / "rainy").glob("*.png"))
    if not names:
        raise SystemExit(f"{arguments.rain100l}/rainy has no .png files")
    rain, rng = Rain(), np.random.default_rng(arguments.seed)
    real, ours = [], []
    layers: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for index, name in enumerate(names):
        clean, rainy = (read_image(arguments.rain100l / kind / name) for kind in ("clean", "rainy"))
        drawn = [draw(clean, rain, rng) for _ in range(arguments.draws)]
        real.append(statistics(rainy, clean))
        ours += [statistics(image, clean) for image in drawn]
        if index % max(len(names) // 9, 1) == 0:
            layers[0].append(layer_of(rainy, clean))
            layers[1].append(layer_of(drawn[0], clean))

    print(
        f"{len(names)} images, ours drawn {arguments.draws} times over each, seed {arguments.seed}"
    )
    print("| per image | Rain100L | ours |\n|---|---|---|")
    for key in real[0]:
        a, b = (np.array([row[key] for row in rows]) for rows in (real, ours))
        print(f"| {key} | {a.mean():.2f} +- {a.std():.2f} | {b.mean():.2f} +- {b.std():.2f} |")
    if arguments.plot and len(layers[0]) >= 9:
        plot(arguments.plot, *layers)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"rain100l": real, "ours": ours}, indent=1))


if __name__ == "__main__":
    main()
