"""The set-up of a run: processes, devices, data, model, step, validation."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterator
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from ipt_jax.checkpoints.checkpoints import Checkpoints
from ipt_jax.config import checks, resolve
from ipt_jax.data import pipeline
from ipt_jax.distributed import devices
from ipt_jax.distributed import start as distributed_start
from ipt_jax.distributed.process_group import ProcessGroup
from ipt_jax.errors import ConfigError
from ipt_jax.model import IPT, build
from ipt_jax.run_folder import folder as names
from ipt_jax.run_folder import lock
from ipt_jax.step.train_step import compile_step
from ipt_jax.storage import check_workdir, expanded, reachable
from ipt_jax.tasks import make_tasks
from ipt_jax.train.data import open_data
from ipt_jax.train.identity import Run, check_same
from ipt_jax.train.profiler import Profiler
from ipt_jax.train.validation import Validator
from ipt_jax.versions import versions


@dataclasses.dataclass(frozen=True)
class Setup:
    """Everything that a run needs and that does not change while it trains.

    Attributes:
      run: the run's folder, resolved config and data.
      group: the processes of the run.
      mesh: the devices of all processes.
      images: the number of training images.
      batches: makes the batch of each step.
      model: the network.
      train_step: the compiled step, `(state, batch) -> (state, metrics)`.
      validator: scores a state on held-out images.
    """

    run: Run
    group: ProcessGroup
    mesh: jax.sharding.Mesh
    images: int
    batches: pipeline.Batches
    model: IPT
    train_step: Callable[..., Any]
    validator: Validator

    @property
    def folder(self) -> epath.Path:
        """The run's folder."""
        return self.run.folder

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config."""
        return self.run.config

    def items(
        self, start: int, given_up: Callable[[], bool]
    ) -> Generator[pipeline.StreamItem, None, None]:
        """Yields the batches from step `start` on, as `pipeline.stream`."""
        stop, data = self.config["steps"], self.config["data"]
        return pipeline.stream(self.batches, start, stop, data, given_up)

    def profiler(self, start: int) -> Profiler:
        """Returns what traces the steps of `log.profile`."""
        return Profiler(self.config["log"]["profile"], self.folder, start)

    def open_checkpoints(self) -> Checkpoints:
        """Returns the run's checkpoints."""
        keep = self.config["checkpoint"]
        folder = self.folder / names.CHECKPOINTS
        return Checkpoints(folder, keep=keep["keep"], keep_every=keep["keep_every"])

    @contextlib.contextmanager
    def locked(self) -> Iterator[lock.Lock]:
        """Keeps other runs out of the folder, and checks that all processes see the same folder.

        Raises:
          Locked: another run is training in the folder.
          ConfigError: the folder is not shared by all hosts, or another run has begun in it since
            `prepare`.
        """
        with lock.hold(self.folder, devices.is_main()) as held:
            if devices.is_main():
                self.run.check_unchanged()
            self.run.check_shared(self.group)
            yield held

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[lock.Lock, Checkpoints]]:
        """Locks the folder and opens its checkpoints; raises as `locked` does."""
        with self.locked() as held, self.open_checkpoints() as checkpoints:
            yield held, checkpoints


def prepare(config: ConfigDict, workdir: str, force: bool = False) -> Setup:
    """Sets up a run, without writing anything.

    Args:
      config: from `config.load` or `config.complete`.
      workdir: the run's folder.
      force: resume even if the folder's run has another config or other data.

    Raises:
      ConfigError, DataError: the run cannot be done as asked for.
    """
    check_workdir(workdir)
    folder = expanded(workdir)
    reachable(folder, "workdir")

    # Processes: do all of them start the same run?
    group = distributed_start.current_group()
    check_same(group, "config", resolve.resolve(config))
    check_same(group, "version", versions())

    # Devices.
    try:
        mesh = devices.make_mesh(config.devices)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    checks.check_batch(config, len(config.tasks), mesh.size, jax.process_count())

    # Data and tasks. Is the run in the folder the same as this one?
    config, source = open_data(config)
    tasks = make_tasks(config.tasks)
    run = Run.open(folder, config, source, force)
    check_same(group, "data", run.data)
    batches = pipeline.make_batches(
        source, tasks, run.config, jax.process_index(), jax.process_count()
    )

    # Model, step and validation.
    model = build(run.config["model"], tasks, mesh)
    train_step = compile_step(model, run.config, mesh)
    validator = Validator(model, tasks, run.config, mesh, folder)
    return Setup(run, group, mesh, len(source), batches, model, train_step, validator)
