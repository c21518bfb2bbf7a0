"""`ipt bench step|forward|attention|data|restore`: measure the speed on this machine.

Every command prints a table, and one JSON object as its last line.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

from ipt_jax.cli.flags import (
    add_task_flag,
    add_tiling_flags,
    add_weights_flags,
    load_weights,
    tiling_of,
    words_of,
)
from ipt_jax.errors import UserError
from ipt_jax.messages import say

MODEL = """Prints medians over the timed calls: samples/s, TFLOP/s by formula (model/flops.py), and
the share of the rate that a plain matrix product of the same dtype reaches on the same devices.
Prints one JSON object last."""
ATTENTION = """Times attention with its projections, forward and backward, in the three forms of
the body, with each kernel that can run on this device (see model.attention), and compares values
and gradients with plain attention in float32. Prints one JSON object last."""
DATA = """Measures the input pipeline of a config: samples per CPU second of one core; the
milliseconds in which an image is read, decoded, cropped, degraded, put into a batch and copied from
a worker process; and samples/s for different numbers of worker processes. Prints one JSON object
last."""
RESTORE = """Restores an image of noise several times, as ipt restore does but without files. Prints
medians: tiles/s, megapixels/s of the input, and the tiles/s of the network alone on full batches;
the difference is the cost of cutting and blending tiles. Prints one JSON object last."""


def add_parser(commands: Any) -> None:
    """Adds the commands of the group `ipt bench`."""
    _add_model(commands, "step", "the training step")
    _add_model(commands, "forward", "the network without gradients")
    _add_attention(commands)
    _add_data(commands)
    _add_restore(commands)


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", metavar="FILE", help="also write the JSON object to this file")


def _add_model(commands: Any, name: str, what: str) -> None:
    command = commands.add_parser(
        name, allow_abbrev=False, help=f"time {what}", description=f"Times {what}. {MODEL}"
    )
    command.add_argument("--config", required=True, metavar="FILE", help="a config file")
    command.add_argument(
        "--batch", type=int, default=0, metavar="N", help="samples a call (default: the config's)"
    )
    command.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="the dtype of the computation (default: the config's)",
    )
    command.add_argument(
        "--devices",
        type=int,
        default=0,
        metavar="N",
        help="the number of devices of this host (default: the config's)",
    )
    command.add_argument(
        "--calls", type=int, default=10, metavar="N", help="timed calls (default: 10)"
    )
    _add_json(command)
    command.set_defaults(run=run_model, what=name)


def _add_attention(commands: Any) -> None:
    command = commands.add_parser(
        "attention", allow_abbrev=False, help="time and check attention", description=ATTENTION
    )
    command.add_argument("--config", required=True, metavar="FILE", help="a config file")
    command.add_argument(
        "--samples", type=int, default=24, metavar="N", help="images in a call (default: 24)"
    )
    command.add_argument(
        "--calls", type=int, default=10, metavar="N", help="timed calls (default: 10)"
    )
    command.add_argument(
        "--interpret",
        action="store_true",
        help="run the fused kernel in an interpreter on any device, to check its numbers; slow",
    )
    _add_json(command)
    command.set_defaults(run=run_attention)


def _add_data(commands: Any) -> None:
    command = commands.add_parser(
        "data", allow_abbrev=False, help="time the input pipeline", description=DATA
    )
    command.add_argument("--config", required=True, metavar="FILE", help="a config file")
    command.add_argument(
        "--workers",
        default="0,1,2",
        metavar="N,N",
        help="numbers of worker processes (default: 0,1,2)",
    )
    command.add_argument(
        "--crops",
        default="1,4",
        metavar="N,N",
        help="numbers of crops of each image for each task (default: 1,4)",
    )
    command.add_argument(
        "--seconds",
        type=float,
        default=5.0,
        metavar="S",
        help="duration of each measurement (default: 5)",
    )
    _add_json(command)
    command.set_defaults(run=run_data)


def _add_restore(commands: Any) -> None:
    command = commands.add_parser(
        "restore", allow_abbrev=False, help="time restoring an image", description=RESTORE
    )
    add_weights_flags(command)
    add_task_flag(command, "a task, e.g. sr2, or several in sequence: denoise,sr2")
    command.add_argument(
        "--size", default="512x512", metavar="WxH", help="size of the image (default: 512x512)"
    )
    command.add_argument(
        "--calls", type=int, default=3, metavar="N", help="timed images (default: 3)"
    )
    add_tiling_flags(command)
    _add_json(command)
    command.set_defaults(run=run_restore)


def run_model(options: argparse.Namespace) -> int:
    """Runs `ipt bench step` or `ipt bench forward`.

    Raises:
      ConfigError: an invalid config, or a batch size that does not divide.
    """
    from ipt_jax import config
    from ipt_jax.bench import step
    from ipt_jax.config import resolve

    flags = {"batch_size": options.batch, "model.dtype": options.dtype, "devices": options.devices}
    overrides = [f"{key}={value}" for key, value in flags.items() if value]
    settings = config.load(options.config, [*options.overrides, *overrides])
    found = step.measure_model(resolve.resolve(settings), options.what, max(1, options.calls))
    _print_table(found)
    _print_json(found, options.json)
    return 0


def run_attention(options: argparse.Namespace) -> int:
    """Runs `ipt bench attention`.

    Raises:
      UserError: an invalid config or number.
    """
    from ipt_jax import config
    from ipt_jax.bench import attention
    from ipt_jax.config import resolve

    for flag in ("samples", "calls"):
        if getattr(options, flag) < 1:
            raise UserError(f"--{flag} {getattr(options, flag)}: it must be 1 or more")
    settings = resolve.resolve(config.load(options.config, options.overrides))
    found = attention.measure_attention(settings, options.samples, options.calls, options.interpret)
    say(attention.describe_attention(found))
    _print_json(found, options.json)
    return 0


def run_data(options: argparse.Namespace) -> int:
    """Runs `ipt bench data`.

    Raises:
      UserError: an invalid config or list of numbers, or unusable data.
    """
    from ipt_jax import config
    from ipt_jax.bench import data
    from ipt_jax.data.sources.source import open_source
    from ipt_jax.tasks import make_tasks

    workers = parse_numbers(options.workers, "--workers", least=0)
    crop_counts = parse_numbers(options.crops, "--crops")
    settings = config.load(options.config, options.overrides)
    source, tasks = open_source(settings.data), make_tasks(settings.tasks)
    found: dict[str, Any] = {
        "pictures": len(source),
        "tasks": [task.name for task in tasks],
        "machine": data.machine(),
        "crops": {},
    }
    for crops in crop_counts:
        batches = data.batches_with_crops(settings, source, tasks, crops)
        result = data.measure_batches(batches, workers, options.seconds, settings.data.prefetch)
        found["crops"][str(crops)] = result
        say("\n".join(data.describe_result(crops, result)))
    _print_json(found, options.json, indent=1)
    return 0


def run_restore(options: argparse.Namespace) -> int:
    """Runs `ipt bench restore`.

    Raises:
      UserError: invalid usage, or weights that are missing.
    """
    from ipt_jax.bench.restore import measure_restore

    width, by, height = options.size.partition("x")
    if not (by and width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise UserError(f"--size {options.size}: must be WIDTHxHEIGHT, for example 512x512")
    if options.calls < 1:
        raise UserError(f"--calls {options.calls}: it must be 1 or more")
    tiling = tiling_of(options)
    model = load_weights(options, dtype=options.dtype, default_for=words_of(options.task))
    try:
        found = measure_restore(
            model,
            options.task or None,
            int(height),
            int(width),
            options.calls,
            options.batch,
            tiling,
        )
    except ValueError as error:
        raise UserError(str(error)) from None
    _print_table(found)
    _print_json(found, options.json)
    return 0


def parse_numbers(text: str, flag: str, least: int = 1) -> list[int]:
    """Parses a comma-separated list of integers.

    Raises:
      UserError: the text is no such list, or a number is less than `least`.
    """
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or min(values) < least:
        raise UserError(f"{flag} {text!r}: give integers of at least {least}, separated by commas")
    return values


def _print_table(found: dict[str, Any]) -> None:
    for key, value in found.items():
        say(f"{key:<22} {value:.4g}" if isinstance(value, float) else f"{key:<22} {value}")


def _print_json(found: dict[str, Any], file: str | None, indent: int | None = None) -> None:
    """Prints one JSON object on a line, and writes it to a file if one is named."""
    if file:
        pathlib.Path(file).write_text(json.dumps(found, indent=indent) + "\n")
    say(json.dumps(found))
