"""What a run has recorded about itself: its config, data and versions, in `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from ipt_jax.config.defaults import default
from ipt_jax.errors import CheckpointError, ConfigError
from ipt_jax.log import logger
from ipt_jax.run_folder.folder import CHECKPOINTS, CONFIG
from ipt_jax.run_folder.records import DamagedRecord, decode_record


def read_recorded(folder: epath.Path) -> dict[str, Any]:
    """Returns the record of a run.

    A damaged `config.json` is replaced by the record of the newest intact checkpoint, which is the
    same, and a warning is logged. Nothing is written.

    Args:
      folder: the run's folder, which holds a `config.json`.

    Returns:
      A dict with "config" (the resolved config, as nested dicts), "data", "fingerprint" and
      "versions"; records of older versions may lack the last three.

    Raises:
      ConfigError: the file is damaged, and there is no intact checkpoint.
      OSError: the file cannot be read.
    """
    file = folder / CONFIG
    try:
        return _checked(decode_record(file.read_bytes()))
    except DamagedRecord as damage:
        reason = str(damage)
    # orbax is imported only where it is needed, because it takes seconds.
    from ipt_jax.checkpoints.checkpoints import Checkpoints

    try:
        with Checkpoints(folder / CHECKPOINTS) as checkpoints:
            meta = checkpoints.read_meta()
            record = _checked(meta)
    except (CheckpointError, DamagedRecord):
        raise ConfigError(
            f"{file} is not a run's config ({reason}), and no checkpoint holds another record of "
            "it; name another folder"
        ) from None
    logger.warning(
        "%s is damaged (%s); the record of checkpoint %d is used", file, reason, meta["step"]
    )
    return record


def _checked(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a record whose config has the sections of a config. Raises DamagedRecord."""
    config, data = record.get("config"), record.get("data", {})
    if not isinstance(config, dict) or not isinstance(data, dict):
        raise DamagedRecord("it has no config and data")
    for key, value in default().items():
        if isinstance(value, ConfigDict) and not isinstance(config.get(key, {}), dict):
            raise DamagedRecord(f"its {key} is not a section of a config")
    for key in ("model", "optim"):
        if key not in config:
            raise DamagedRecord(f"its config has no {key}")
    return dict(record)
