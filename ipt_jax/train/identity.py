"""The identity of a run: its folder, its config, the data that it sees, the versions."""

from __future__ import annotations

import dataclasses
import json
import socket
import time
from collections.abc import Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from ipt_jax import trees
from ipt_jax.config import defaults, resolve
from ipt_jax.config.recorded import read_recorded
from ipt_jax.data import pipeline
from ipt_jax.data.sources.source import Source
from ipt_jax.distributed import devices
from ipt_jax.distributed.process_group import ProcessGroup
from ipt_jax.errors import ConfigError
from ipt_jax.log import logger
from ipt_jax.messages import listed
from ipt_jax.run_folder.folder import CHECKPOINTS, CONFIG, LOCK
from ipt_jax.run_folder.records import encode_record
from ipt_jax.storage import replace_text
from ipt_jax.versions import versions

# Keys that may differ between the processes of a run: how a host reads its
# data.
PER_HOST = tuple(f"config.{key}" for key in defaults.PER_HOST)

# Seconds that a network file system may take to show a file that another host has written.
VISIBLE = 60.0


@dataclasses.dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
      folder: where it is kept.
      config: the resolved config.
      data: the fingerprint and number of the training images, and the version of the pipeline.
      force: whether the run resumes a folder whose config or data differ; the log lists what
        differs.
    """

    folder: epath.Path
    config: dict[str, Any]
    data: dict[str, Any]
    force: bool = False

    @classmethod
    def open(
        cls, folder: epath.Path, config: ConfigDict, source: Source, force: bool = False
    ) -> Run:
        """Returns the run that a config makes in a folder, which may hold this run already.

        Args:
          folder: the run's folder.
          config: the config.
          source: the training images.
          force: resume the folder's run even if its config or data differ; the log lists what
            differs.

        Raises:
          ConfigError: the folder holds another run (the message lists all differences), or
            something that is not a run.
        """
        data = {
            "fingerprint": source.fingerprint(),
            "pictures": len(source),
            "version": pipeline.DATA_VERSION,
        }
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"workdir {folder} is a file; name a folder")
        old = _read_config(folder)
        if old is None:
            return cls(folder, resolve.resolve(config), data, force)
        # An unset length of the schedule stays what it was, even if `steps` has changed.
        resolved = resolve.resolve(config, old["config"]["optim"].get("schedule_steps", 0))
        run = cls(folder, json.loads(json.dumps(resolved)), data, force)
        run.check_same_run(old, f"workdir {folder}", "name another folder, undo these changes")
        return run

    def check_unchanged(self) -> None:
        """Compares the folder's config with this run again. Call it while holding the lock.

        Between `open` and the lock, another run may have begun and ended in the folder.

        Raises:
          ConfigError: as `open`.
        """
        old = _read_config(self.folder)
        # With force, `open` has logged the differences.
        if old is not None and not self.force:
            self.check_same_run(old, f"workdir {self.folder}", "name another folder")

    def check_same_run(self, old: Mapping[str, Any], where: str, advice: str) -> None:
        """Checks that a saved config and its data are those of this run.

        With `force`, differences are logged and accepted.

        Args:
          old: what `meta` returned when it was saved.
          where: the place where it was found, for the message.
          advice: what can be done, for the message.

        Raises:
          ConfigError: they differ; the message lists all differences.
        """
        changed = resolve.differences(old["config"], self.config)
        changed += data_differences(old["data"], self.data)
        lines = "".join(f"\n  {line}" for line in changed)
        if changed and not self.force:
            raise ConfigError(
                f"{where} holds a run with another config; {advice}, or accept the differences "
                f"with --force-config:{lines}"
            )
        if changed:
            logger.warning(
                "%s is resumed with another config, as --force-config asks:%s", where, lines
            )

    def check_shared(self, group: ProcessGroup) -> None:
        """Checks that all processes see one folder. Call it while process 0 holds the lock.

        Raises:
          ConfigError: some processes have another folder under the same name.
        """
        if group.count == 1:
            return
        deadline = time.monotonic() + VISIBLE
        while not (visible := (self.folder / LOCK).exists()) and time.monotonic() < deadline:
            time.sleep(0.2)
        seen = group.gather("workdir", [visible, socket.gethostname()])
        blind = [f"process {i} ({host})" for i, (visible, host) in enumerate(seen) if not visible]
        if blind:
            raise ConfigError(
                f"workdir {self.folder} is not the same folder on every host: {listed(blind, 8)} "
                "cannot see what process 0 wrote there; name a folder on shared storage, such as "
                "gs://BUCKET/RUN"
            )

    def begin(self) -> None:
        """Writes the run's config to its folder, on process 0."""
        if devices.is_main():
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_text(self.folder / CONFIG, encode_record(self.meta()))

    def meta(self) -> dict[str, Any]:
        """Returns what is saved with each checkpoint."""
        return {
            "config": self.config,
            "fingerprint": resolve.fingerprint(self.config),
            "data": self.data,
            "versions": versions(),
        }


def _read_config(folder: epath.Path) -> dict[str, Any] | None:
    """Returns the record of a run, or None for a folder without a run.

    Raises:
      ConfigError: the file is damaged and no intact checkpoint holds its content, or there are
        checkpoints without the file.
    """
    file = folder / CONFIG
    if not file.exists():
        if (folder / CHECKPOINTS).exists():
            raise ConfigError(
                f"workdir {folder} holds checkpoints but no {CONFIG}; name another folder"
            )
        return None
    record = read_recorded(folder)
    return {**record, "data": record.get("data", {})}


def data_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns a line 'the data's KEY: old -> new' for each entry of `Run.data` that differs."""
    return [
        f"the data's {key}: {old.get(key)} -> {value}"
        for key, value in new.items()
        if old.get(key) != value
    ]


def check_same(group: ProcessGroup, what: str, mine: Mapping[str, Any]) -> None:
    """Compares a nested dict with those of the other processes.

    Args:
      group: the processes.
      what: the name of the dict, which becomes the first part of its keys.
      mine: this process's dict.

    Raises:
      ConfigError: they differ; the message names the keys, the values and the processes.
    """
    flat = {f"{what}.{key}": value for key, value in trees.flatten(mine).items()}
    flat = {key: value for key, value in flat.items() if key not in PER_HOST}
    first, *others = group.gather(what, json.loads(json.dumps(flat)))
    differing: dict[str, list[int]] = {}
    for index, other in enumerate(others, 1):
        for key in sorted({*first, *other}):
            if first.get(key) != other.get(key):
                line = f"{key}: {first.get(key)!r} on process 0, {other.get(key)!r} on process"
                differing.setdefault(line, []).append(index)
    if differing:
        lines = "".join(
            f"\n  {line} {listed(map(str, where), 8)}" for line, where in differing.items()
        )
        raise ConfigError(f"the processes of a run must have one {what}, but these differ:{lines}")
