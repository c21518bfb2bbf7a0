"""A run's identity: its folder, its whole config, the data it sees, the versions it was made with."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from importlib import metadata
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from ipt_jax import __version__, partition
from ipt_jax import config as configs
from ipt_jax.config import ConfigError
from ipt_jax.data import pipeline
from ipt_jax.data.sources import Source
from ipt_jax.log import logger


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's identity: its folder, its whole config, what data it sees."""

    folder: epath.Path
    config: dict[str, Any]
    data: dict[str, Any]

    @classmethod
    def open(cls, folder: epath.Path, config: ConfigDict, source: Source, force: bool = False) -> Run:
        """The run that this config makes in this folder, new or begun.

        With `force`, the run goes on under another config or with other data, and the log says what differs.

        Raises:
          ConfigError: the folder holds another run (all differences are listed), or something that is not a run.
        """
        data = {"fingerprint": source.fingerprint(), "pictures": len(source), "version": pipeline.DATA_VERSION}
        file = folder / "config.json"
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"workdir {folder} is a file; name a folder")
        if not file.exists():
            if (folder / "checkpoints").exists():
                raise ConfigError(f"workdir {folder} holds checkpoints but no config.json; name another folder")
            return cls(folder, configs.resolve(config), data)
        try:
            old = json.loads(file.read_text())
            before, old_data = old["config"], old["data"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ConfigError(f"{file} is not a run's config ({error!r}); name another folder") from None
        plain = json.loads(json.dumps(configs.resolve(config, before["optim"]["schedule_steps"])))
        changed = configs.differences(before, plain)
        changed += [f"the data's {k}: {old_data.get(k)} -> {data[k]}" for k in data if old_data.get(k) != data[k]]
        lines = "".join(f"\n  {line}" for line in changed)
        if changed and not force:
            raise ConfigError(
                f"workdir {folder} holds a run with another config; name another folder, undo these, or go on knowingly "
                f"with --force-config:{lines}"
            )
        if changed:
            logger.warning("going on in %s, forced, though it is another run now:%s", folder, lines)
        return cls(folder, plain, data)

    def begin(self) -> None:
        """Writes config.json, if this process does."""
        if partition.is_main():
            self.folder.mkdir(parents=True, exist_ok=True)
            fresh = self.folder / "config.json.new"
            fresh.write_text(json.dumps(self.meta(), indent=1) + "\n")
            fresh.replace(self.folder / "config.json")

    def meta(self) -> dict[str, Any]:
        """What goes with each checkpoint."""
        fingerprint = configs.fingerprint(self.config)
        return {"config": self.config, "fingerprint": fingerprint, "data": self.data, "versions": versions()}


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "opencv-python-headless")
    found = {name: metadata.version(name) for name in packages if _installed(name)}
    return {"ipt_jax": __version__, "python": sys.version.split()[0], **found}


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
