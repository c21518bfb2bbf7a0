"""Reads the weights of a run's checkpoint."""

from __future__ import annotations

import jax
import numpy as np
from etils import epath

from ipt_jax.checkpoints.checkpoints import Checkpoints
from ipt_jax.config import defaults
from ipt_jax.config.recorded import read_recorded
from ipt_jax.errors import ConfigError, WeightsError
from ipt_jax.model import build
from ipt_jax.model.lora import merge_adapters
from ipt_jax.model.trainable import is_partial, overlay
from ipt_jax.restore.restorer import Restorer
from ipt_jax.run_folder.best_record import best_step
from ipt_jax.run_folder.folder import CHECKPOINTS, CONFIG
from ipt_jax.tasks import make_tasks
from ipt_jax.weights.check import check_params


def read_run(folder: epath.Path, step: str, raw: bool) -> Restorer:
    """Reads a checkpoint of a run.

    Args:
      folder: the run's folder.
      step: a step, "best", or "" for the newest intact checkpoint.
      raw: whether the raw weights are read instead of their EMA.

    Raises:
      WeightsError: the folder is not a run's, or it has no such checkpoint.
      CheckpointError: every checkpoint is damaged.
    """
    file = folder / CONFIG
    if not file.exists():
        content = ", ".join(sorted(f.name for f in folder.iterdir())[:8]) or "nothing"
        raise WeightsError(
            f"{folder} is neither a run's folder (config.json, checkpoints) nor a weights folder "
            f"(model.json, weights.safetensors); it contains: {content}"
        )
    try:
        config = read_recorded(folder)["config"]
    except ConfigError as error:
        raise WeightsError(str(error)) from None
    try:
        # Runs of older versions do not have this key.
        config.setdefault("finetune", defaults.default().finetune.to_dict())
        tasks = make_tasks(config["tasks"])
        model = build(config["model"], tasks)
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{file} is not a run's config: {error!r}") from None
    with Checkpoints(folder / CHECKPOINTS) as checkpoints:
        # The checkpoint of step 0 holds the parameters that the run started from.
        steps = [found for found in checkpoints.steps() if found > 0 or step == "0"]
        if not steps:
            raise WeightsError(f"{folder}: there is no checkpoint in {folder / CHECKPOINTS} yet")
        if step == "best":
            chosen = best_step(folder, str(config.get("evaluate", {}).get("best", "")))
            if chosen is None:
                raise WeightsError(
                    f"{folder}@best: the run keeps no best checkpoint (evaluate.best names a "
                    "metric)"
                )
            step = str(chosen)
        if step and (not step.isdigit() or int(step) not in steps):
            raise WeightsError(
                f"{folder}@{step}: there is no such checkpoint; there are "
                f"{', '.join(map(str, steps))}"
            )
        which = ("params",) if raw else ("ema", "params")
        params, meta = checkpoints.restore_params(which, int(step) if step else None)
        if meta["step"] == 0 and step != "0":
            raise WeightsError(
                f"{folder}: no checkpoint in {folder / CHECKPOINTS} is intact, except for the "
                f"untrained one; {folder}@0 names it"
            )
        # The EMA has only the parameters that are trained; the others come from the raw weights.
        if meta["part"] == "ema" and is_partial(config):
            params = overlay(checkpoints.restore_params("params", meta["step"])[0], params)
    params = jax.tree.map(np.asarray, merge_adapters(params, config))
    check_params(params, model, str(folder))
    provenance = {
        "from": f"{folder}@{meta['step']}",
        "part": meta["part"],
        "step": meta["step"],
        "config": meta.get("fingerprint"),
        "data": meta.get("data"),
        "versions": meta.get("versions"),
    }
    return Restorer(model, params, {task.name: task for task in tasks}, provenance)
