"""The stream of batches: `(config, step) -> batch`, the same on any number of hosts, workers and
threads.

A batch is `{task: {"lq", "hq"}}` and a pure function of its step, so there is no loader state to
save: a run that goes on at step i asks for batch i.

Order. The pictures of an epoch are a permutation drawn from (seed, epoch), cut to whole groups;
step i takes the next `batch_size / (tasks * crops)` of them. Each decoded picture gives `crops`
crops for each task. Within a task's rows, every `loss.group` consecutive rows are different
pictures, so that a contrastive group can be cut out of any device's share.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np

from ipt_jax.data import workers
from ipt_jax.data.crops import LONGEST, at_least, cut_pair, empty_pair, make_pair
from ipt_jax.data.sources.pairs import decode_pair
from ipt_jax.data.sources.source import Source
from ipt_jax.errors import DataError, DecodeError
from ipt_jax.images.decode import decode
from ipt_jax.tasks import Task

Batch = dict[str, dict[str, np.ndarray]]

# Changes when the same (config, step) gives other bytes, so that a resumed run notices (a golden
# hash is in the tests).
DATA_VERSION = 1

# Unreadable pictures in a row
TRIES = 20


class Item(NamedTuple):
    """What the stream gives for a step: this host's rows, and the pictures that had to be replaced,
    with reasons.
    """

    batch: Batch
    replaced: list[str]


@dataclasses.dataclass(frozen=True)
class Batches:
    """`batches(step)` is this host's share of the batch of that step. Picklable; holds no state."""

    source: Source
    tasks: tuple[Task, ...]
    seed: int
    batch_size: int
    tile: int
    group: int
    crops: int = 1
    draw: str = "all"
    flips: bool = False
    process_index: int = 0
    process_count: int = 1

    def __post_init__(self) -> None:
        unit = (
            len(self.tasks if self.draw == "all" else "1")
            * self.process_count
            * self.group
            * self.crops
        )
        if self.batch_size < 1 or self.batch_size % unit:
            raise ValueError(
                f"batch_size={self.batch_size} must be a multiple of {unit}, so that each host has "
                "whole groups "
                "of pictures"
            )
        if len(self.source) < self.group:
            raise DataError(
                f"{len(self.source)} picture(s) for groups of {self.group} different ones "
                "(loss.group): "
                "give more pictures"
            )

    @functools.cached_property
    def _order(self) -> grain.MapDataset:
        # A permutation for each epoch, random access, nothing of the size of the set in memory.
        return grain.MapDataset.range(len(self.source)).seed(self.seed).shuffle().repeat()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_order"}

    @property
    def epoch_pictures(self) -> int:
        """Pictures an epoch: all but the remainder of the last group, another one each epoch."""
        return epoch_pictures(len(self.source), self.group)

    def drawn(self, step: int) -> tuple[Task, ...]:
        """The tasks of a step: all, or the one drawn from (seed, step)."""
        if self.draw == "all":
            return self.tasks
        rng = np.random.default_rng([self.seed, step, zlib.crc32(b"draw")])
        return (self.tasks[int(rng.integers(len(self.tasks)))],)

    def picture(self, position: int) -> int:
        """Index in the source of the picture at a position of the endless stream of pictures."""
        epoch, place = divmod(position, self.epoch_pictures)
        return int(self._order[epoch * len(self.source) + place])

    def _positions(self, step: int) -> range:
        """This host's places of a step's pictures in the endless stream of pictures."""
        pictures = self.batch_size // len(self.drawn(step)) // self.process_count // self.crops
        first = (step * self.process_count + self.process_index) * pictures
        return range(first, first + pictures)

    def names(self, step: int) -> list[str]:
        """The pictures that this host's rows of a step are cut from, before any is replaced."""
        return [self.source.name(self.picture(position)) for position in self._positions(step)]

    def __call__(self, step: int) -> Item:
        tasks, positions = self.drawn(step), self._positions(step)
        rows = len(positions) * self.crops
        batch = {task.name: empty_pair(task, rows, self.tile) for task in tasks}
        replaced: list[str] = []
        for block in range(0, len(positions), self.group):
            taken = [self.picture(positions[block + member]) for member in range(self.group)]
            for member in range(self.group):
                position = positions[block + member]
                picture = self._read(taken, member, position, replaced)
                for task in tasks:
                    rng = self._generator(position, task)
                    pair = batch[task.name]
                    make = make_pair if isinstance(picture, np.ndarray) else cut_pair
                    hq: Any = (
                        at_least(picture, self.tile * task.scale)
                        if isinstance(picture, np.ndarray)
                        else picture
                    )
                    for crop in range(self.crops):
                        row = block * self.crops + crop * self.group + member
                        pair["lq"][row], pair["hq"][row] = make(
                            hq, task, self.tile, rng, self.flips
                        )
        return Item(batch, replaced)

    def _generator(self, position: int, task: Task) -> np.random.Generator:
        return np.random.Generator(
            np.random.SFC64([self.seed, position, zlib.crc32(task.name.encode())])
        )

    def _read(self, taken: list[int], member: int, position: int, replaced: list[str]) -> Any:
        """The decoded picture or pair of a group's member; one that cannot be read gives way to
        another, always the same.

        Raises:
          DataError: `TRIES` in a row cannot be read, or there is no other picture left for the
            group.
        """
        rng, tried = None, set()
        while True:
            index = taken[member]
            try:
                return self._decoded(index)
            except DecodeError as error:
                replaced.append(f"{self.source.name(index)}: {error}")
            tried.add(index)
            others = len(self.source) - len(tried | set(taken))
            if len(tried) == TRIES or not others:
                raise DataError(
                    f"no readable picture found in place of {len(tried)} unreadable one(s) of "
                    f"{len(self.source)}; the last: {replaced[-1]}"
                )
            rng = rng or np.random.default_rng([self.seed, position, zlib.crc32(b"replace")])
            drawn = int(rng.integers(others))
            # So `drawn` counts only those that are not among them
            for one in sorted(tried | set(taken)):
                drawn += drawn >= one
            taken[member] = drawn

    def _decoded(self, index: int) -> Any:
        raw: Any = self.source[index]
        if isinstance(raw, tuple):
            return decode_pair(raw, self.tasks[0].scale)
        picture = raw if isinstance(raw, np.ndarray) else decode(raw)
        height, width = picture.shape[:2]
        side = self.tile * max(task.scale for task in self.tasks)
        if max(height, width) * side > LONGEST * min(height, width):
            raise DecodeError(
                f"{width}x{height} pixels are too narrow to be enlarged to hold a crop of "
                f"{side}x{side}"
            )
        return picture


def epoch_pictures(pictures: int, group: int) -> int:
    """Pictures that an epoch takes: whole groups."""
    return pictures // group * group


def make_batches(
    source: Source,
    tasks: Sequence[Task],
    config: Mapping[str, Any],
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """The batches of a config.

    Raises:
      DataError: too few pictures, or a degradation that cannot work (such as rain from a folder
        that is not there).
    """
    data, tile = config["data"], config["model"]["tile"]
    for task in tasks if data["source"] != "pairs" else ():
        try:
            task.degrade(
                np.zeros((tile * task.scale, tile * task.scale, 3), np.uint8),
                np.random.default_rng(0),
            )
        except ValueError as error:
            raise DataError(f"task {task.name}: {error}") from error
    return Batches(
        source=source,
        tasks=tuple(tasks),
        seed=config["seed"],
        batch_size=config["batch_size"],
        tile=tile,
        group=config["loss"]["group"],
        crops=data["crops"],
        draw=data["draw"],
        flips=data["flips"],
        process_index=process_index,
        process_count=process_count,
    )


def stream(
    batches: Batches,
    start: int,
    stop: int,
    data: Mapping[str, Any],
    given_up: Callable[[], bool] = lambda: False,
) -> Generator[Item, None, None]:
    """Items of the steps start..stop - 1 in order, made ahead by `data.workers` processes or
    `data.threads` threads.

    Close the iterator (`.close()`) to stop the workers. `given_up` is asked while a batch is waited
    for: True ends the items.

    Raises:
      WorkerError: a worker process died.
      Stalled: no batch came for `data.stalled` seconds.
      Exception: whatever making a batch raised, with the traceback of the worker.
    """
    limits = {key: data[key] for key in ("stalled",) if key in data}
    what = f"data.dir={data['dir']!r}" if data.get("dir") else "the source"
    return workers.run(
        batches,
        range(start, stop),
        data["workers"],
        data["threads"],
        data["prefetch"],
        what=what,
        given_up=given_up,
        **limits,
    )
