"""`load`: weights of any kind, by path. Every command that takes WEIGHTS goes through here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from etils import epath

from ipt_jax.errors import WeightsError
from ipt_jax.model.ipt import GEOMETRY
from ipt_jax.restore.restorer import Restorer
from ipt_jax.weights import load as loading
from ipt_jax.weights.run import read_run


def split_step(path: str) -> tuple[epath.Path, str]:
    """(folder, step) of `DIR@1200` or `DIR@best`; the step is "" where none is named, or where a
    folder has the whole name.
    """
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
      path: a run's folder (its newest good checkpoint; `DIR@1200` and `DIR@best` name one), a
        weights folder (`ipt import`, `ipt export`), or a .pt, .safetensors or .ckpt file. Folders
        may be on gs://.
      task: for a file: names its tasks (comma-separated) where the shapes do not tell, e.g.
        "denoise30". For what names its tasks itself: the only ones to keep.
      heads: for a file: attention heads, which shapes do not tell; 12 if not given.
      raw: for a run: the weights themselves, though it keeps their moving average.
      dtype: what is computed in, "float32" or "bfloat16".

    Raises:
      WeightsError: there is nothing such, or it does not hold what it should; all that is wrong is
        listed.
      CheckpointError: a run's checkpoints are all damaged.
    """
    path = os.fspath(path)
    folder, step = split_step(path)
    if not folder.exists():
        raise WeightsError(f"weights {path!r}: there is no {folder}")
    if (folder / "model.json").exists():
        from ipt_jax.weights import folder as weights_folder

        if step:
            raise WeightsError(
                f"weights {path!r}: {folder} is a weights folder, which has no steps"
            )
        restorer = weights_folder.read(folder)
        return _kept(restorer, task, dtype)
    if folder.is_dir():
        return _kept(read_run(folder, step, raw), task, dtype)
    return _kept(read_file(folder, task=task, heads=heads), None, dtype)


def read_file(path: Any, *, task: str | None = None, heads: int | None = None) -> Restorer:
    """A file: our own .npz, which names its tasks itself, or one with the authors' names.

    Args:
      path: the file.
      task, heads: as for `load`.

    Raises:
      WeightsError: it holds no weights.
    """
    from ipt_jax.weights import authors, tensor_files
    from ipt_jax.weights import folder as weights_folder

    file = Path(path)
    if not file.is_file():
        raise WeightsError(f"{file} is not a file")
    state = tensor_files.read(file)
    if "model.json" not in state:
        return authors.read(file, task=task, heads=heads, state=state)
    restorer = weights_folder.from_flat(state, str(file))
    return restorer.only([word.strip() for word in task.split(",")]) if task else restorer


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


def geometry_of(path: str) -> dict[str, Any]:
    """The `model` keys that weights settle: a run's own config, or what `load` finds."""
    model = loading.load(path).model
    return {key: getattr(model, key) for key in GEOMETRY}
