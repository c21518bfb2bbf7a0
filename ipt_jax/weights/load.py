"""`load`: weights of any kind, by path. Every command that takes WEIGHTS goes through here."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from ipt_jax.checkpoints.checkpoints import Checkpoints
from ipt_jax.config import loading as configs
from ipt_jax.model import IPT, build
from ipt_jax.model import trainable as adapt
from ipt_jax.restore.restorer import Restorer
from ipt_jax.tasks import make_tasks
from ipt_jax.train import best_checkpoint as best
from ipt_jax.weights.state_dict import WeightsError, abstract


def split_step(path: str) -> tuple[epath.Path, str]:
    """(folder, step) of `DIR@1200` or `DIR@best`; the step is "" where none is named, or where a folder has the whole name."""
    name, _, step = path.rpartition("@")
    whole = epath.Path(path).expanduser()
    if whole.exists() or not name:
        return whole, ""
    return epath.Path(name).expanduser(), step


def load(
    path: str | os.PathLike[str],
    *,
    task: str | None = None,
    heads: int | None = None,
    raw: bool = False,
    dtype: str = "float32",
) -> Restorer:
    """Loads weights: a run's folder, a weights folder, or a file of the authors' names.

    Args:
      path: a run's folder (its newest good checkpoint; `DIR@1200` and `DIR@best` name one), a weights folder (`ipt import`,
        `ipt export`), or a .pt, .safetensors or .ckpt file. Folders may be on gs://.
      task: for a file: names its tasks (comma-separated) where the shapes do not tell, e.g. "denoise30". For what
        names its tasks itself: the only ones to keep.
      heads: for a file: attention heads, which shapes do not tell; 12 if not given.
      raw: for a run: the weights themselves, though it keeps their moving average.
      dtype: what is computed in, "float32" or "bfloat16".

    Raises:
      WeightsError: there is nothing such, or it does not hold what it should; all that is wrong is listed.
      CheckpointError: a run's checkpoints are all damaged.
    """
    path = os.fspath(path)
    folder, step = split_step(path)
    if not folder.exists():
        raise WeightsError(f"weights {path!r}: there is no {folder}")
    if (folder / "model.json").exists():
        from ipt_jax.weights import folder as weights_folder

        if step:
            raise WeightsError(f"weights {path!r}: {folder} is a weights folder, which has no steps")
        restorer = weights_folder.read(folder)
        return _kept(restorer, task, dtype)
    if folder.is_dir():
        return _kept(_run(folder, step, raw), task, dtype)
    from ipt_jax.weights import authors

    return _kept(authors.read(folder, task=task, heads=heads), None, dtype)


def _kept(restorer: Restorer, task: str | None, dtype: str) -> Restorer:
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype is 'float32' or 'bfloat16', not {dtype!r}")
    if task is not None:
        try:
            restorer = restorer.only([word.strip() for word in task.split(",")])
        except ValueError as error:
            raise WeightsError(str(error)) from None
    model = restorer.model.clone(dtype=jnp.dtype(dtype), remat="none")
    return Restorer(model, restorer.params, restorer.tasks, restorer.provenance)


def _run(folder: epath.Path, step: str, raw: bool) -> Restorer:
    """A run's newest good checkpoint, or the one of a step."""
    file = folder / "config.json"
    if not file.exists():
        there = ", ".join(sorted(f.name for f in folder.iterdir())[:8]) or "nothing"
        raise WeightsError(f"{folder} is neither a run's folder (config.json, checkpoints) nor a weights folder "
                           f"(model.json, weights.safetensors); in it: {there}")  # fmt: skip
    try:
        config = json.loads(file.read_text())["config"]
        config.setdefault("finetune", configs.default().finetune.to_dict())  # of a run older than the key
        tasks = make_tasks(config["tasks"])
        model = build(config["model"], tasks)
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{file} is not a run's config: {error!r}") from None
    with Checkpoints(folder / "checkpoints") as checkpoints:
        steps = checkpoints.steps()
        if not steps:
            raise WeightsError(f"{folder}: no checkpoint yet in {folder / 'checkpoints'}")
        if step == "best":
            chosen = best.step_of(folder)
            if chosen is None:
                raise WeightsError(f"{folder}@best: the run keeps no best checkpoint (evaluate.best names a metric)")
            step = str(chosen)
        if step and (not step.isdigit() or int(step) not in steps):
            raise WeightsError(f"{folder}@{step}: no such checkpoint; there are {', '.join(map(str, steps))}")
        which = ("params",) if raw else ("ema", "params")
        params, meta = checkpoints.restore_params(which, int(step) if step else None)
        if meta["part"] == "ema" and adapt.is_partial(config):  # kept of what is trained only
            params = adapt.overlay(checkpoints.restore_params("params", meta["step"])[0], params)
    params = jax.tree.map(np.asarray, adapt.merged(params, config))
    check(params, model, str(folder))
    provenance = {"from": f"{folder}@{meta['step']}", "part": meta["part"], "step": meta["step"],
                  "config": meta.get("fingerprint"), "data": meta.get("data"), "versions": meta.get("versions")}  # fmt: skip
    return Restorer(model, params, {task.name: task for task in tasks}, provenance)


def check(params: Mapping[str, Any], model: IPT, what: str) -> None:
    """Raises WeightsError, listing all, unless the parameters are the model's by name, shape and dtype, and finite."""
    want = configs.flatten(abstract(model))
    have = configs.flatten(params)
    wrong = [f"{k}: missing" for k in want.keys() - have.keys()] + [f"{k}: unexpected" for k in have.keys() - want.keys()]
    for key in want.keys() & have.keys():
        if have[key].shape != want[key].shape:
            wrong.append(f"{key}: {list(have[key].shape)}, not {list(want[key].shape)}")
        elif have[key].dtype != np.float32:
            wrong.append(f"{key}: {have[key].dtype}, not float32")
        elif not np.isfinite(have[key]).all():
            wrong.append(f"{key}: holds values that are not finite")
    if wrong:
        raise WeightsError(f"{what} does not hold this model's weights:\n  " + "\n  ".join(sorted(wrong)))
