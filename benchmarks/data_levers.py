"""The costs of alternatives for each part of the input pipeline, in CPU milliseconds.

    python benchmarks/data_levers.py FOLDER

FOLDER has JPEG files. Each cost is the best of several rounds. simplejpeg is measured if it is
installed.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import time
from collections.abc import Callable

import cv2
import grain
import imageio.v3 as imageio
import numpy as np
from data_baseline import indexed_bicubic
from PIL import Image

from ipt_jax.data import workers
from ipt_jax.data.pipeline import Batches
from ipt_jax.data.sources.folder import Folder
from ipt_jax.degradations.noise import Noise
from ipt_jax.degradations.rain import Rain
from ipt_jax.images.decode import decode
from ipt_jax.images.resize import bicubic
from ipt_jax.tasks import PAPER_TASKS, make_tasks


def cost(times: int, function: Callable[..., object], *arguments: object) -> float:
    """Returns the CPU milliseconds of a call."""
    best = float("inf")
    for _ in range(5):
        began = time.thread_time()
        for _ in range(times):
            function(*arguments)
        best = min(best, time.thread_time() - began)
    return 1000 * best / times


def show(what: str, milliseconds: float) -> None:
    """Prints a cost."""
    print(f"{what:<66} {milliseconds:8.3f} ms", flush=True)


def decoders(raws: list[bytes]) -> None:
    """Measures decoders of JPEG files."""
    ways = {
        "decode: this project's (OpenCV, with a check of the file's structure)": decode,
        "decode: OpenCV without a check, BGR": lambda raw: cv2.imdecode(
            np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR
        ),
        "decode: Pillow": lambda raw: np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")),
        "decode: imageio": lambda raw: imageio.imread(io.BytesIO(raw)),
        "decode: OpenCV at half the size (not exact)": lambda raw: cv2.imdecode(
            np.frombuffer(raw, np.uint8), cv2.IMREAD_REDUCED_COLOR_2
        ),
    }
    with contextlib.suppress(ImportError):
        simplejpeg = importlib.import_module("simplejpeg")
        ways["decode: simplejpeg"] = lambda raw: simplejpeg.decode_jpeg(
            raw, fastdct=False, fastupsample=False
        )
    for what, way in ways.items():
        show(what, cost(1, lambda way: [way(raw) for raw in raws], way) / len(raws))


def degradations() -> None:
    """Measures ways to reduce images and to draw noise and rain."""
    rng = np.random.default_rng(0)
    for scale in (2, 3, 4):
        side = (48 + 4) * scale
        crop = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        floats = crop.transpose(2, 0, 1)[None].astype(np.float32)
        show(f"bicubic x{scale}: two small matrix products, exact", cost(200, bicubic, crop, scale))
        show(f"bicubic x{scale}: gathered by index", cost(20, indexed_bicubic, floats, scale))
        show(
            f"bicubic x{scale}: cv2.resize, bilinear (neither bicubic nor antialiased)",
            cost(500, cv2.resize, crop, (52, 52)),
        )
    crop = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
    for kind in (np.random.SFC64, np.random.PCG64, np.random.Philox, np.random.MT19937):
        generator = np.random.Generator(kind(0))
        show(f"noise: {kind.__name__}, float32", cost(500, Noise(30.0), crop, generator))
        show(
            f"noise: making a {kind.__name__} from (seed, position, task)",
            cost(500, lambda kind: np.random.Generator(kind([0, 123456, 99])), kind),
        )
    show(
        "noise: float64",
        cost(500, lambda: np.clip(crop + 30 * rng.standard_normal(crop.shape), 0, 255)),
    )
    show("rain: drawn", cost(200, Rain(), crop, rng))


def copies(source: Folder) -> None:
    """Measures ways to copy a batch from a worker process."""
    batches = Batches(source, make_tasks(PAPER_TASKS), seed=0, batch_size=96, tile=48, group=2)
    item = batches(0)
    size = sum(array.nbytes for pair in item.batch.values() for array in pair.values()) / 2**20
    floats = sum(array.size * 4 for pair in item.batch.values() for array in pair.values()) / 2**20
    print(f"a batch of 96 is {size:.1f} MB; with hq and lq as float32 it would be {floats:.1f} MB")

    def ready(step: int) -> object:
        return item

    with contextlib.closing(workers.make_ahead(ready, range(100_000), 1, 0, 2)) as items:
        next(items)
        show(
            "copying that batch: mapped files in shared memory, receiver",
            cost(60, next, items),
        )
        began = time.perf_counter()
        for _ in range(300):
            next(items)
        show(
            "copying that batch: the same, from end to end (wall)",
            1000 * (time.perf_counter() - began) / 300,
        )
    steps = (
        grain.MapDataset.range(100_000)
        .map(lambda step: item.batch)
        .to_iter_dataset(grain.ReadOptions(0, 0))
    )
    options = grain.MultiprocessingOptions(num_workers=1, per_worker_buffer_size=2)
    with contextlib.closing(iter(steps.mp_prefetch(options))) as items:
        next(items)
        show("copying that batch: grain's own, receiver", cost(60, next, items))
        began = time.perf_counter()
        for _ in range(300):
            next(items)
        show(
            "copying that batch: the same, from end to end (wall)",
            1000 * (time.perf_counter() - began) / 300,
        )


def main() -> None:
    """Runs the benchmark."""
    cv2.setNumThreads(0)
    source = Folder(sys.argv[1])
    decoders([source[i] for i in range(min(len(source), 250))])
    degradations()
    copies(source)


if __name__ == "__main__":
    main()
