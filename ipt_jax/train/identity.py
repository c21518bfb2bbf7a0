"""A run's identity: its folder, its whole config, the data it sees, the versions it was made
with.
"""

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
from ipt_jax.data import pipeline
from ipt_jax.data.sources.source import Source
from ipt_jax.distributed import devices
from ipt_jax.distributed import process_group as hosts
from ipt_jax.errors import ConfigError
from ipt_jax.log import logger
from ipt_jax.messages import listed
from ipt_jax.versions import versions


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's identity: its folder, its whole config, what data it sees."""

    folder: epath.Path
    config: dict[str, Any]
    data: dict[str, Any]

    @classmethod
    def open(
        cls, folder: epath.Path, config: ConfigDict, source: Source, force: bool = False
    ) -> Run:
        """The run that this config makes in this folder, new or begun.

        With `force`, the run goes on under another config or with other data, and the log says what
        differs.

        Raises:
          ConfigError: the folder holds another run (all differences are listed), or something that
            is not a run.
        """
        data = {
            "fingerprint": source.fingerprint(),
            "pictures": len(source),
            "version": pipeline.DATA_VERSION,
        }
        file = folder / "config.json"
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"workdir {folder} is a file; name a folder")
        if not file.exists():
            if (folder / "checkpoints").exists():
                raise ConfigError(
                    f"workdir {folder} holds checkpoints but no config.json; name another folder"
                )
            return cls(folder, resolve.resolve(config), data)
        try:
            old = json.loads(file.read_text())
            before, old_data = old["config"], old["data"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{file} is not a run's config ({error!r}); name another folder"
            ) from None
        plain = json.loads(json.dumps(resolve.resolve(config, before["optim"]["schedule_steps"])))
        changed = resolve.differences(before, plain)
        changed += [
            f"the data's {k}: {old_data.get(k)} -> {data[k]}"
            for k in data
            if old_data.get(k) != data[k]
        ]
        lines = "".join(f"\n  {line}" for line in changed)
        if changed and not force:
            raise ConfigError(
                f"workdir {folder} holds a run with another config; name another folder, undo "
                "these, or go on knowingly "
                f"with --force-config:{lines}"
            )
        if changed:
            logger.warning("going on in %s, forced, though it is another run now:%s", folder, lines)
        return cls(folder, plain, data)

    def check_shared(self, line: hosts.ProcessGroup) -> None:
        """To be called when process 0 holds the folder's lock.

        Raises:
          ConfigError: another process has another folder under this name.
        """
        if line.count == 1:
            return
        # Network file systems show what others made a little late
        deadline = time.monotonic() + 60
        while not (there := (self.folder / "lock").exists()) and time.monotonic() < deadline:
            time.sleep(0.2)
        seen = line.gather("workdir", [there, socket.gethostname()])
        blind = [f"process {i} ({host})" for i, (there, host) in enumerate(seen) if not there]
        if blind:
            raise ConfigError(
                f"workdir {self.folder} is not the same folder on every host: {listed(blind, 8)} "
                "cannot see what "
                "process 0 wrote there; name one on shared storage, such as gs://BUCKET/RUN"
            )

    def begin(self) -> None:
        """Writes config.json, if this process does."""
        if devices.is_main():
            self.folder.mkdir(parents=True, exist_ok=True)
            fresh = self.folder / "config.json.new"
            fresh.write_text(json.dumps(self.meta(), indent=1) + "\n")
            fresh.replace(self.folder / "config.json")

    def meta(self) -> dict[str, Any]:
        """What goes with each checkpoint."""
        fingerprint = resolve.fingerprint(self.config)
        return {
            "config": self.config,
            "fingerprint": fingerprint,
            "data": self.data,
            "versions": versions(),
        }


# What may differ between the processes of a run: how a host reads its data.
PER_HOST = tuple(f"config.{key}" for key in defaults.PER_HOST)


def check_same(line: hosts.ProcessGroup, what: str, mine: Mapping[str, Any]) -> None:
    """Compares a nested dict with those of the other processes.

    Raises:
      ConfigError: they differ; names the keys, the values and the processes.
    """
    flat = {f"{what}.{k}": v for k, v in trees.flatten(mine).items()}
    flat = json.loads(json.dumps({k: v for k, v in flat.items() if k not in PER_HOST}))
    first, *others = line.gather(what, flat)
    lines: dict[str, list[int]] = {}
    for index, other in enumerate(others, 1):
        for key in sorted({*first, *other}):
            if first.get(key) != other.get(key):
                lines.setdefault(
                    f"{key}: {first.get(key)!r} on process 0, {other.get(key)!r} on process", []
                ).append(index)
    if lines:
        text = "".join(f"\n  {line} {listed(map(str, where), 8)}" for line, where in lines.items())
        raise ConfigError(f"the processes of a run must have one {what}, but these differ:{text}")
