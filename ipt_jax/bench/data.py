"""The speed of the input pipeline: samples per second, and the time of each stage."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import time
from collections.abc import Iterator
from typing import Any

from ipt_jax.data import pipeline, stages, workers
from ipt_jax.data.pipeline import Batches, make_batches

# The stages of the pipeline, and the copy of a batch from a worker process.
STAGES = (*stages.STAGES, "copy")


def machine() -> dict[str, Any]:
    """Returns the machine's processor and its load, which the results depend on."""
    return {
        "cores": os.cpu_count(),
        "load": [round(x, 2) for x in os.getloadavg()],
        "processor": platform.machine(),
        "python": platform.python_version(),
    }


def batches_with_crops(config: Any, source: Any, tasks: Any, crops: int) -> Batches:
    """Returns the batches of a config, but with so many crops of each image for each task.

    The batch size is the config's, rounded up to a multiple of tasks x group x crops.
    """
    drawn = len(tasks) if config.data.draw == "all" else 1
    unit = drawn * config.loss.group * crops
    changed = config.copy_and_resolve_references()
    changed.update({"batch_size": -(-config.batch_size // unit) * unit, "data": {"crops": crops}})
    return make_batches(source, tasks, changed)


def measure_batches(
    batches: Batches, worker_counts: list[int], seconds: float, prefetch: int = 2
) -> dict[str, Any]:
    """Measures the pipeline that makes the batches.

    Args:
      batches: what is made.
      worker_counts: numbers of worker processes; 0 = none.
      seconds: the duration of each measurement.
      prefetch: batches that each worker process makes ahead.

    Returns:
      `samples_per_core`: samples per CPU second of one core; `ms_a_picture`: stage ->
      milliseconds; `samples_per_s`: number of worker processes -> samples/s; `wait`: the share of
      its time that a loop with the most workers waits for data, if a step takes 1.25 times as
      long as a batch.
    """
    per_core, milliseconds = profile_stages(batches, seconds)
    rates = {count: measure_rate(batches, count, seconds, prefetch) for count in worker_counts}
    most = max(worker_counts)
    result = {
        "batch_size": batches.batch_size,
        "samples_per_core": round(per_core, 1),
        "ms_a_picture": {name: round(milliseconds[name], 4) for name in STAGES},
        "samples_per_s": {str(count): round(value, 1) for count, value in rates.items()},
    }
    if most:
        step = 1.25 * batches.batch_size / rates[most]
        result["wait"] = round(measure_wait(batches, most, step, seconds, prefetch), 4)
    return result


def profile_stages(batches: Batches, seconds: float) -> tuple[float, dict[str, float]]:
    """Returns samples per CPU second of one thread, and each stage's milliseconds per image."""
    images = batches.batch_size // len(batches.drawn(0)) // batches.crops
    batches(0)
    steps, used = _make_repeatedly(batches, seconds, 1)
    per_core = steps * batches.batch_size / used

    clock = _Clock()
    steps, used = _make_repeatedly(dataclasses.replace(batches, stage=clock.stage), seconds, 1)
    spent = {name: clock.spent.get(name, 0.0) for name in ("read", "decode", "crop", "degrade")}
    # Everything else is counted as work on the batch, so that the stages add up to the total.
    spent["batch"] = used - sum(spent.values())
    found = {name: 1000 * value / steps / images for name, value in spent.items()}
    found["copy"] = 1000 * measure_copy(batches, seconds / 2) / images
    return per_core, found


def measure_copy(batches: Batches, seconds: float) -> float:
    """Returns the seconds in which a batch comes from a worker process that has it ready."""
    ready = _Ready(batches(0))
    with contextlib.closing(workers.make_ahead(ready, range(1_000_000), 1, 0, 2)) as items:
        for _ in range(4):
            next(items)
        count, used = _take_repeatedly(items, seconds)
    return used / count


def measure_rate(batches: Batches, worker_count: int, seconds: float, prefetch: int = 2) -> float:
    """Returns the samples/s of the complete pipeline; without workers, of this thread."""
    with _stream(batches, worker_count, prefetch) as items:
        # The batches that the workers made ahead while they started do not count.
        for _ in range(max(1, 2 * worker_count * (prefetch + 1))):
            next(items)
        count, used = _take_repeatedly(items, seconds)
    return count * batches.batch_size / used


def measure_wait(
    batches: Batches, worker_count: int, step: float, seconds: float, prefetch: int = 2
) -> float:
    """Returns the share of its time that a loop waits for data.

    Args:
      batches: what is waited for.
      worker_count: the number of worker processes.
      step: seconds that each step of the loop takes, without using the CPU.
      seconds: the duration of the measurement.
      prefetch: batches that each worker process makes ahead.
    """
    with _stream(batches, worker_count, prefetch) as items:
        item = next(items)
        waited, began = 0.0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            time.sleep(step)
            # A training step frees its batch before it asks for the next.
            del item
            asked = time.perf_counter()
            item = next(items)
            waited += time.perf_counter() - asked
        return waited / (time.perf_counter() - began)


@contextlib.contextmanager
def _stream(batches: Batches, worker_count: int, prefetch: int) -> Iterator[Iterator[Any]]:
    data = {"workers": worker_count, "threads": 0, "prefetch": prefetch}
    with contextlib.closing(pipeline.stream(batches, 0, 1_000_000_000, data)) as items:
        yield items


def _take_repeatedly(items: Iterator[Any], seconds: float) -> tuple[int, float]:
    """Takes items for a while; returns their number and the seconds that they took."""
    count, began = 0, time.perf_counter()
    while (used := time.perf_counter() - began) < seconds:
        next(items)
        count += 1
    return count, used


def _make_repeatedly(batches: Batches, seconds: float, first: int) -> tuple[int, float]:
    """Makes batches for a while; returns their number and the CPU seconds of this thread."""
    steps, began, cpu = 0, time.perf_counter(), time.thread_time()
    while time.perf_counter() - began < seconds:
        batches(first + steps)
        steps += 1
    return steps, time.thread_time() - cpu


class _Clock:
    """Measures the CPU seconds of this thread in each stage of the pipeline.

    Attributes:
      spent: the seconds by the name of a stage.
    """

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time inside this context to a stage."""
        began = time.thread_time()
        try:
            yield
        finally:
            self.spent[name] = self.spent.get(name, 0.0) + time.thread_time() - began


@dataclasses.dataclass(frozen=True)
class _Ready:
    """A maker of batches that returns the same one at once."""

    item: Any

    def __call__(self, step: int) -> Any:
        return self.item


def describe_result(crops: int, result: dict[str, Any]) -> Iterator[str]:
    """Yields lines of text about the result of `measure_batches`."""
    yield f"{crops} crop(s) of each image for each task, batches of {result['batch_size']}:"
    yield f"  {result['samples_per_core']:.0f} samples per CPU second of one core"
    times = result["ms_a_picture"].items()
    yield "  ms per image: " + ", ".join(f"{name} {value:.3f}" for name, value in times)
    for count, value in result["samples_per_s"].items():
        yield f"  {count} worker(s): {value:.0f} samples/s"
    if "wait" in result:
        share = 100 * result["wait"]
        yield f"  waiting for data, if a step takes 1.25 times as long as a batch: {share:.2f} %"
