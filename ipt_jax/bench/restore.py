"""`ipt bench restore`: how fast whole pictures are restored."""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

from ipt_jax.restore.tiling import PROTOCOLS

ABOUT = """Restores a picture of noise several times, as ipt restore does but without files, and gives medians:
tiles/s, megapixels/s of the input, and the network's own tiles/s on full batches, which tells what cutting and blending cost.
Prints one JSON object last."""


def add_parser(commands: Any) -> None:
    """`ipt bench restore`."""
    command = commands.add_parser(
        "restore", allow_abbrev=False, help="time restoring a picture", description=ABOUT
    )
    command.add_argument(
        "--weights",
        required=True,
        metavar="WEIGHTS",
        help="a run's folder, a weights folder, a file",
    )
    command.add_argument(
        "--task", metavar="T", help="sr2, ...; several one after the other: denoise30,sr2"
    )
    command.add_argument(
        "--size", default="512x512", metavar="WxH", help="of the picture (default: 512x512)"
    )
    command.add_argument(
        "--calls", type=int, default=3, metavar="N", help="timed pictures (default: 3)"
    )
    command.add_argument(
        "--protocol", default="blend", choices=PROTOCOLS, help="how pictures are cut into tiles"
    )
    command.add_argument(
        "--overlap",
        type=int,
        default=12,
        metavar="N",
        help="pixels by which blend's tiles overlap at least",
    )
    command.add_argument(
        "--ensemble", action="store_true", help="mean over 8 flips and transpositions"
    )
    command.add_argument(
        "--batch", type=int, default=16, metavar="N", help="tiles a call, for each device"
    )
    command.add_argument(
        "--dtype", default="float32", choices=("float32", "bfloat16"), help="what is computed in"
    )
    command.add_argument("--json", metavar="FILE", help="also write the JSON object there")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the command.

    Raises:
      UserError: wrong usage, or weights that are not there.
    """
    from ipt_jax.errors import UserError
    from ipt_jax.weights.load import load

    width, by, height = options.size.partition("x")
    if not (by and width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise UserError(f"--size {options.size}: must be WIDTHxHEIGHT, such as 512x512")
    if options.calls < 1 or options.batch < 1:
        raise UserError("--calls and --batch must be 1 or more")
    model = load(options.weights, dtype=options.dtype)
    cut = dict(protocol=options.protocol, overlap=options.overlap, ensemble=options.ensemble)
    try:
        found = measure(
            model, options.task, int(height), int(width), options.calls, options.batch, cut
        )
    except ValueError as error:
        raise UserError(str(error)) from None
    for key, value in found.items():
        print(f"{key:<22} {value:.4g}" if isinstance(value, float) else f"{key:<22} {value}")
    text = json.dumps(found)
    if options.json:
        pathlib.Path(options.json).write_text(text + "\n")
    print(text)
    return 0


def measure(
    model: Any,
    task: str | None,
    height: int,
    width: int,
    calls: int,
    batch: int,
    cut: dict[str, Any],
) -> dict[str, Any]:
    """Times restoring a picture of noise; the first, which compiles, is not counted.

    Args:
      model: a `Restorer`.
      task: one or several, as for `Restorer.restore`.
      height, width: of the picture.
      calls: timed pictures.
      batch: tiles a call, for each device.
      cut: protocol, overlap, ensemble.
    """
    import jax
    import numpy as np

    from ipt_jax.distributed import devices

    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    names = [one.name for one in model.chain(task)]
    tiles = model.tiles(height, width, names, **cut)

    def picture() -> None:
        for _ in model.restore_strips(
            lambda a, b: image[a:b], height, width, names, batch=batch, **cut
        ):
            pass

    rows = np.zeros((batch * model.devices, model.model.tile, model.model.tile, 3), np.float32)
    first, seconds = _timed(picture, calls)

    def network(name: str) -> Callable[[], Any]:
        return lambda: jax.block_until_ready(model.bind(name)(rows))

    alone = sum(_timed(network(name), calls)[1] for name in names)
    return {
        **devices.describe(),
        "tasks": ",".join(names),
        "width": width,
        "height": height,
        **cut,
        "dtype": str(np.dtype(model.model.dtype)),
        "batch": len(rows),
        "tiles": tiles,
        "seconds": seconds,
        "first_s": first,
        "tiles_per_s": tiles / seconds,
        "megapixels_per_s": height * width / 1e6 / seconds,
        "network_tiles_per_s": len(rows) * len(names) / alone,
    }


def _timed(call: Callable[[], Any], calls: int) -> tuple[float, float]:
    """(seconds of a first call, median of the others)."""
    times = []
    for _ in range(calls + 1):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times[0], sorted(times[1:])[(calls - 1) // 2]
