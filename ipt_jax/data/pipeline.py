"""The stream of batches: `(config, step) -> batch`, for any number of hosts, workers and threads.

A batch is `{task: {"lq", "hq"}}` and a pure function of its step. There is therefore no loader
state to save: a run that resumes at step i asks for batch i.

Order: the images of an epoch are a permutation drawn from (seed, epoch), without the remainder of
the last group. Step i takes the next `batch_size / (tasks * crops)` of them. Each decoded image
gives `crops` crops for each task. Within a task's rows, every `loss.group` consecutive rows show
different images, so that each device's share of a batch can be cut into contrastive groups.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np

from ipt_jax.data import workers
from ipt_jax.data.crops import at_least, cut_pair, empty_pair, make_pair, why_too_narrow
from ipt_jax.data.sources.pairs import decode_pair
from ipt_jax.data.sources.source import Source
from ipt_jax.data.stages import Stage, untimed
from ipt_jax.errors import DataError, DecodeError
from ipt_jax.images.decode import decode
from ipt_jax.messages import printable
from ipt_jax.tasks import Task

Batch = dict[str, dict[str, np.ndarray]]

# Raised whenever the same (config, step) gives other bytes, so that a resumed run notices. The
# tests hold golden hashes of batches.
DATA_VERSION = 1

# Unreadable images in a row, after which the data set is considered broken.
TRIES = 20


class StreamItem(NamedTuple):
    """What the stream gives for a step.

    Attributes:
      batch: this host's rows of the batch.
      replaced: "name: reason" of each unreadable image that another one replaced.
      damaged: "name: warning" of each image that was read although its decoder warns of damage.
    """

    batch: Batch
    replaced: list[str]
    damaged: list[str]


@dataclasses.dataclass(frozen=True)
class Batches:
    """Makes batches: `batches(step)` is this host's share of the batch of that step.

    The object is picklable and holds no state.

    Attributes:
      source: the images.
      tasks: the tasks of the config, in order.
      seed: of the order of images, the crops and the degradations.
      batch_size: samples of a step, over all tasks and hosts.
      tile: side of lq in pixels.
      group: consecutive rows of a task that show different images (`loss.group`).
      crops: crops of each task from each decoded image.
      draw: "all" for every task in every step, "one" for one randomly drawn task per step.
      flips: whether crops are flipped and transposed at random.
      process_index, process_count: this host among all hosts.
      stage: runs each piece of the work, so that it can be measured (see `data.stages`).

    Raises:
      ValueError: `batch_size` is not a multiple of tasks, hosts, group and crops.
      DataError: the source has too few images for a group.
    """

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
    stage: Stage = dataclasses.field(default=untimed, repr=False, compare=False)

    def __post_init__(self) -> None:
        tasks_per_step = len(self.tasks) if self.draw == "all" else 1
        unit = tasks_per_step * self.process_count * self.group * self.crops
        if self.batch_size < 1 or self.batch_size % unit:
            raise ValueError(
                f"batch_size={self.batch_size} must be a multiple of {unit}, so that each host has "
                "complete groups of images"
            )
        if len(self.source) < self.group:
            raise DataError(
                f"{len(self.source)} image(s) for groups of {self.group} different ones "
                "(loss.group): give more images"
            )

    @functools.cached_property
    def _order(self) -> grain.MapDataset:
        # A permutation for each epoch, with random access and without an index in memory.
        return grain.MapDataset.range(len(self.source)).seed(self.seed).shuffle().repeat()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_order"}

    @property
    def epoch_pictures(self) -> int:
        """Images of an epoch: all but the remainder of the last group, which differs each epoch."""
        return epoch_pictures(len(self.source), self.group)

    def drawn(self, step: int) -> tuple[Task, ...]:
        """Returns the tasks of a step: all of them, or the one drawn from (seed, step)."""
        if self.draw == "all":
            return self.tasks
        rng = np.random.default_rng([self.seed, step, zlib.crc32(b"draw")])
        return (self.tasks[int(rng.integers(len(self.tasks)))],)

    def picture(self, position: int) -> int:
        """Returns the index in the source of an image, given its position in the endless stream."""
        epoch, place = divmod(position, self.epoch_pictures)
        return int(self._order[epoch * len(self.source) + place])

    def _positions(self, step: int) -> range:
        """Returns the positions in the endless stream of this host's images of a step."""
        pictures = self.batch_size // len(self.drawn(step)) // self.process_count // self.crops
        first = (step * self.process_count + self.process_index) * pictures
        return range(first, first + pictures)

    def names(self, step: int) -> list[str]:
        """Returns the names of this host's images of a step, before any is replaced."""
        return [self.source.name(self.picture(position)) for position in self._positions(step)]

    def __call__(self, step: int) -> StreamItem:
        tasks, positions = self.drawn(step), self._positions(step)
        rows = len(positions) * self.crops
        with self.stage("batch"):
            batch = {task.name: empty_pair(task, rows, self.tile) for task in tasks}
        replaced: list[str] = []
        damaged: list[str] = []
        for block in range(0, len(positions), self.group):
            taken = [self.picture(positions[block + member]) for member in range(self.group)]
            for member in range(self.group):
                position = positions[block + member]
                picture = self._read_or_replace(taken, member, position, replaced, damaged)
                first = block * self.crops + member
                for task in tasks:
                    pair = batch[task.name]
                    for crop, (lq, hq) in enumerate(self._cut(picture, task, position)):
                        row = first + crop * self.group
                        with self.stage("batch"):
                            pair["lq"][row], pair["hq"][row] = lq, hq
        return StreamItem(batch, replaced, damaged)

    def _cut(
        self, picture: Any, task: Task, position: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields a task's crops (lq, hq) of a decoded image or pair."""
        rng = self._generator(position, task)
        if isinstance(picture, np.ndarray):
            with self.stage("crop"):
                picture = at_least(picture, self.tile * task.scale)
        make: Callable[..., tuple[np.ndarray, np.ndarray]] = (
            make_pair if isinstance(picture, np.ndarray) else cut_pair
        )
        for _ in range(self.crops):
            yield make(picture, task, self.tile, rng, self.flips, stage=self.stage)

    def _generator(self, position: int, task: Task) -> np.random.Generator:
        return np.random.Generator(
            np.random.SFC64([self.seed, position, zlib.crc32(task.name.encode())])
        )

    def _read_or_replace(
        self,
        taken: list[int],
        member: int,
        position: int,
        replaced: list[str],
        damaged: list[str],
    ) -> Any:
        """Returns the decoded image or pair of a group's member.

        Another image, drawn from (seed, position), replaces an unreadable one.

        Args:
          taken: indices of the group's images; that of a replacement is written into it.
          member: which of the group.
          position: of the image in the endless stream.
          replaced: "name: reason" of an unreadable image is appended to it.
          damaged: "name: warning" of an image whose decoder warns is appended to it.

        Raises:
          DataError: `TRIES` images in a row cannot be read, or the source has no other image left
            for the group.
        """
        rng, tried = None, set()
        while True:
            index = taken[member]
            try:
                return self._decoded(index, damaged)
            except DecodeError as error:
                replaced.append(f"{printable(self.source.name(index))}: {error}")
            tried.add(index)
            others = len(self.source) - len(tried | set(taken))
            if len(tried) == TRIES or not others:
                raise DataError(
                    f"no readable image found in place of {len(tried)} unreadable one(s) of "
                    f"{len(self.source)}; the last: {replaced[-1]}"
                )
            rng = rng or np.random.default_rng([self.seed, position, zlib.crc32(b"replace")])
            drawn = int(rng.integers(others))
            # Skip the images that are taken or tried: `drawn` counts only the others.
            for one in sorted(tried | set(taken)):
                drawn += drawn >= one
            taken[member] = drawn

    def _decoded(self, index: int, damaged: list[str]) -> Any:
        """Returns an image uint8 `[H, W, 3]`, or a pair of them.

        Args:
          index: of the image in the source.
          damaged: "name: warning" is appended to it where the decoder warns.

        Raises:
          DecodeError: the image cannot be read, or is too narrow for a crop.
        """
        with self.stage("read"):
            raw: Any = self.source[index]

        def warn(text: str) -> None:
            damaged.append(f"{printable(self.source.name(index))}: {text}")

        with self.stage("decode"):
            if isinstance(raw, tuple):
                return decode_pair(raw, self.tasks[0].scale, warn)
            picture = raw if isinstance(raw, np.ndarray) else decode(raw, warn=warn)
        height, width = picture.shape[:2]
        side = self.tile * max(task.scale for task in self.tasks)
        if reason := why_too_narrow(height, width, side):
            raise DecodeError(reason)
        return picture


def epoch_pictures(pictures: int, group: int) -> int:
    """Returns how many images an epoch takes: all that fill complete groups."""
    return pictures // group * group


def make_batches(
    source: Source,
    tasks: Sequence[Task],
    config: Mapping[str, Any],
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Returns the batches of a config, after trying each task's degradation once.

    Raises:
      DataError: the source has too few images, or a degradation cannot work (such as rain from a
        folder that does not exist).
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
) -> Generator[StreamItem, None, None]:
    """Yields the items of steps start..stop - 1 in order.

    `data.workers` processes or `data.threads` threads make them ahead. Close the generator
    (`.close()`) to stop these.

    Args:
      batches: makes the items.
      start, stop: range of steps.
      data: the config's `data` section: `workers`, `threads`, `prefetch`, `stalled`, `dir`.
      given_up: asked about once a second while no batch is ready; True ends the stream.

    Raises:
      WorkerError: a worker process died.
      Stalled: no batch came for `data.stalled` seconds.
      Exception: whatever making a batch raised, with the traceback of the worker.
    """
    limits = {key: data[key] for key in ("stalled",) if key in data}
    what = f"data.dir={data['dir']!r}" if data.get("dir") else "the source"
    return workers.make_ahead(
        batches,
        range(start, stop),
        data["workers"],
        data["threads"],
        data["prefetch"],
        what=what,
        given_up=given_up,
        **limits,
    )
