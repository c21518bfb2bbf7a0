"""`ipt bench data`: samples a second of the input pipeline, a core and in all, and where the time
goes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import platform
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

STAGES = ("read", "decode", "crop", "degrade", "batch", "copy")


def add_parser(commands: Any) -> None:
    """`ipt bench data`."""
    command = commands.add_parser(
        "data",
        allow_abbrev=False,
        help="samples a second of the input pipeline",
        description="Measures the input pipeline of a config: samples for each CPU second of one "
        "core, in how many "
        "milliseconds a picture is read, decoded, cropped, degraded, put into a batch and handed "
        "over, and samples a second "
        "with different numbers of worker processes. Prints one JSON object last.",
    )
    command.add_argument("--config", required=True, metavar="FILE", help="a config file")
    command.add_argument(
        "--workers",
        default="0,1,2",
        metavar="N,N",
        help="numbers of worker processes (default: 0,1,2)",
    )
    command.add_argument(
        "--crops", default="1,4", metavar="N,N", help="crops of each task a picture (default: 1,4)"
    )
    command.add_argument(
        "--seconds", type=float, default=5.0, metavar="S", help="of each measurement (default: 5)"
    )
    command.add_argument("--json", metavar="FILE", help="also write the JSON object there")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs `ipt bench data`."""
    from ipt_jax.config import loading as configs
    from ipt_jax.data import pipeline
    from ipt_jax.data.sources.source import open_source
    from ipt_jax.tasks import make_tasks

    config = configs.load(options.config, getattr(options, "overrides", ()))
    source, tasks = open_source(config.data), make_tasks(config.tasks)
    drawn = len(tasks) if config.data.draw == "all" else 1
    found: dict[str, Any] = {
        "pictures": len(source),
        "tasks": [task.name for task in tasks],
        "machine": machine(),
        "crops": {},
    }
    for crops in numbers(options.crops, "--crops"):
        unit = drawn * config.loss.group * crops
        size = -(-config.batch_size // unit) * unit
        config.update({"batch_size": size, "data": {"crops": crops}})
        batches = pipeline.make_batches(source, tasks, config)
        result = measure(
            batches, numbers(options.workers, "--workers", 0), options.seconds, config.data.prefetch
        )
        found["crops"][str(crops)] = result
        print("\n".join(lines(crops, result)), flush=True)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))
    return 0


def numbers(text: str, flag: str, least: int = 1) -> list[int]:
    """A comma-separated list of whole numbers.

    Raises:
      DataError: it is not one.
    """
    from ipt_jax.errors import DataError

    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or min(values) < least:
        raise DataError(
            f"{flag} {text!r}: give whole numbers from {least} on, with commas between them"
        )
    return values


def machine() -> dict[str, Any]:
    """What the numbers were measured on, and how busy it was."""
    return {
        "cores": os.cpu_count(),
        "load": [round(x, 2) for x in os.getloadavg()],
        "processor": platform.machine(),
        "python": platform.python_version(),
    }


def measure(batches: Any, workers: list[int], seconds: float, prefetch: int = 2) -> dict[str, Any]:
    """All measurements of one `Batches`.

    Returns:
      `samples_per_core`: for each CPU second of one core; `ms_a_picture`: stage -> milliseconds;
        `samples_per_s`: number of
      worker processes -> samples a second; `wait`: share of the time that a loop with the most
      workers waits for data, when its step takes 1.25 times as long as a batch.
    """
    per_core, stages = profile(batches, seconds)
    rates = {count: rate(batches, count, seconds, prefetch) for count in workers}
    most = max(workers)
    result = {
        "batch_size": batches.batch_size,
        "samples_per_core": round(per_core, 1),
        "ms_a_picture": {name: round(stages[name], 4) for name in STAGES},
        "samples_per_s": {str(count): round(value, 1) for count, value in rates.items()},
    }
    if most:
        result["wait"] = round(
            waiting(batches, most, 1.25 * batches.batch_size / rates[most], seconds, prefetch), 4
        )
    return result


def profile(batches: Any, seconds: float) -> tuple[float, dict[str, float]]:
    """Samples for each CPU second in one thread, and milliseconds of it a picture by stage."""
    from ipt_jax.data import pipeline

    pictures = batches.batch_size // len(batches.drawn(0)) // batches.crops
    batches(0)
    steps, used = _repeat(batches, seconds, 1)
    per_core = steps * batches.batch_size / used

    clock = _Clock()
    tasks = tuple(
        dataclasses.replace(task, degrade=_Timed(task.degrade, clock)) for task in batches.tasks
    )
    timed = dataclasses.replace(batches, source=_Source(batches.source, clock), tasks=tasks)
    with contextlib.ExitStack() as patches:
        for name, stage in (("decode", "decode"), ("make_pair", "pair"), ("at_least", "enlarge")):
            patches.enter_context(
                mock.patch.object(pipeline, name, clock.timed(stage, getattr(pipeline, name)))
            )
        steps, used = _repeat(timed, seconds, 1)
    spent = {
        name: clock.spent.get(name, 0.0)
        for name in ("read", "decode", "pair", "enlarge", "degrade")
    }
    stages = {
        "read": spent["read"],
        "decode": spent["decode"],
        "crop": spent["pair"] - spent["degrade"] + spent["enlarge"],
        "degrade": spent["degrade"],
        "batch": used - spent["read"] - spent["decode"] - spent["pair"] - spent["enlarge"],
        "copy": 0.0,
    }
    stages = {name: 1000 * value / steps / pictures for name, value in stages.items()}
    stages["copy"] = 1000 * handing_over(batches, seconds / 2) / pictures
    return per_core, stages


def handing_over(batches: Any, seconds: float) -> float:
    """Seconds in which a batch that is there already goes from a worker process to this one."""
    from ipt_jax.data import workers

    with contextlib.closing(workers.make_ahead(_Ready(batches(0)), range(1_000_000), 1, 0, 2)) as items:
        for _ in range(4):
            next(items)
        count, began = 0, time.perf_counter()
        while (used := time.perf_counter() - began) < seconds:
            next(items)
            count += 1
    return used / count


def rate(batches: Any, workers: int, seconds: float, prefetch: int = 2) -> float:
    """Samples a second of the whole pipeline; without workers, of this thread."""
    with _stream(batches, workers, prefetch) as items:
        # What was made ahead meanwhile does not count
        for _ in range(max(1, 2 * workers * (prefetch + 1))):
            next(items)
        count, began = 0, time.perf_counter()
        while (used := time.perf_counter() - began) < seconds:
            next(items)
            count += 1
    return count * batches.batch_size / used


def waiting(batches: Any, workers: int, step: float, seconds: float, prefetch: int = 2) -> float:
    """Share of its time that a loop waits for data, whose step takes `step` seconds and no CPU."""
    with _stream(batches, workers, prefetch) as items:
        item = next(items)
        waited, began = 0.0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            time.sleep(step)
            # A step lets go of its batch
            del item
            asked = time.perf_counter()
            item = next(items)
            waited += time.perf_counter() - asked
        return waited / (time.perf_counter() - began)


@contextlib.contextmanager
def _stream(batches: Any, workers: int, prefetch: int) -> Iterator[Iterator[Any]]:
    from ipt_jax.data import pipeline

    data = {"workers": workers, "threads": 0, "prefetch": prefetch}
    with contextlib.closing(pipeline.stream(batches, 0, 1_000_000_000, data)) as items:
        yield items


def _repeat(batches: Any, seconds: float, first: int) -> tuple[int, float]:
    """(steps, CPU seconds of this thread) of making batches for a while."""
    steps, began, cpu = 0, time.perf_counter(), time.thread_time()
    while time.perf_counter() - began < seconds:
        batches(first + steps)
        steps += 1
    return steps, time.thread_time() - cpu


class _Clock:
    """CPU seconds by name."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.spent[name] = self.spent.get(name, 0.0) + time.thread_time() - began

        return run


class _Timed:
    """A degradation whose calls are timed."""

    def __init__(self, degrade: Any, clock: _Clock):
        self.margin, self.rounded = degrade.margin, degrade.rounded
        self._call = clock.timed("degrade", degrade)

    def __call__(self, hq: Any, rng: Any) -> Any:
        return self._call(hq, rng)


class _Source:
    """A source whose reads are timed."""

    def __init__(self, source: Any, clock: _Clock):
        self._source, self.name = source, source.name
        self._read = clock.timed("read", source.__getitem__)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> Any:
        return self._read(i)


@dataclasses.dataclass(frozen=True)
class _Ready:
    item: Any

    def __call__(self, step: int) -> Any:
        return self.item


def lines(crops: int, result: dict[str, Any]) -> Iterator[str]:
    """The result of one number of crops, for people."""
    yield f"{crops} crop(s) of each task a picture, batches of {result['batch_size']}:"
    yield f"  {result['samples_per_core']:.0f} samples for each CPU second of one core"
    yield "  ms a picture: " + ", ".join(
        f"{name} {value:.3f}" for name, value in result["ms_a_picture"].items()
    )
    for workers, value in result["samples_per_s"].items():
        yield f"  {workers} worker(s): {value:.0f} samples/s"
    if "wait" in result:
        yield f"  waiting for data with a step of 1.25 batches' time: {100 * result['wait']:.2f} %"
    sys.stdout.flush()
