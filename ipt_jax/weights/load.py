"""`load`: weights of any kind, by path or address. Every command that takes --weights uses it."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from etils import epath

from ipt_jax.errors import WeightsError
from ipt_jax.messages import nearest
from ipt_jax.model.ipt import GEOMETRY
from ipt_jax.restore.restorer import Restorer
from ipt_jax.storage import expanded, is_remote, reachable, scheme_of
from ipt_jax.weights.default import default_weights, named_weights, shipped
from ipt_jax.weights.run import read_run

# The schemes of addresses whose files are copied to this machine before they are read.
FETCHED = ("hf", "https", "http")


def is_fetched(path: str) -> bool:
    """Returns whether weights have an address of `FETCHED`, on a hub or on the web."""
    return scheme_of(path) in FETCHED


def fetch(address: str) -> Path:
    """Returns the local copy of the weights at an address of `FETCHED`, a file or a folder.

    Arguments and errors are those of `hub.fetch` and `web.fetch`.
    """
    # `pathlib` makes one slash of two.
    address = re.sub(r"^(\w+):/+", r"\1://", address)
    if scheme_of(address) == "hf":
        from ipt_jax.weights import hub

        return hub.fetch(address)
    from ipt_jax.weights import web

    return web.fetch(address)


def shown_address(address: str) -> str:
    """Returns an address for records: without its password, query and checksum."""
    from ipt_jax.weights import web

    url = re.sub(r"^(\w+):/+", r"\1://", address).partition("#")[0]
    return web.Address(url).shown


def split_step(path: str) -> tuple[epath.Path, str]:
    """Returns the folder and step of `DIR@1200` or `DIR@best`.

    The step is "" where none is named, and where a folder or file of the full name exists.
    """
    name, _, step = path.rpartition("@")
    full = expanded(path)
    if full.exists() or not name:
        return full, ""
    return expanded(name), step


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    task: str | None = None,
    heads: int | None = None,
    raw: bool = False,
    dtype: str = "float32",
) -> Restorer:
    """Loads weights: a run's folder, a weights folder, or a file.

    Args:
      path: a run's folder (its newest intact checkpoint; `DIR@1200` and `DIR@best` name another), a
        weights folder (`ipt import`, `ipt export`), a .pt, .safetensors, .ckpt or .npz file, or the
        name of weights that `ipt weights` lists. All of them may be on gs://. Weights folders and
        files may also be on a hub, `hf://org/name[@revision][/file]`, or on the web,
        `https://host/file`; `#sha256=...` states the checksum of a file. None for the default
        weights.
      task: for a file with the authors' names, the names of its tasks (comma-separated) where its
        shapes do not tell them, e.g. "denoise30". For other weights, the tasks to keep.
      heads: for a file with the authors' names, the number of attention heads, which shapes do not
        tell; None for 12.
      raw: for a run, whether the raw weights are used instead of their EMA.
      dtype: the dtype in which the network computes, "float32" or "bfloat16".

    Raises:
      WeightsError: the weights do not exist or are invalid; all differences from the model are
        listed.
      CheckpointError: every checkpoint of a run is damaged.
      DownloadError: the network or a server fails.
      ConfigError, DataError: the path is on a store that is not supported, or its package is not
        installed.
    """
    path = default_weights() if path is None else os.fspath(path)
    if is_fetched(path):
        restorer = _load_local(fetch(path), task, heads, dtype)
        return _with_address(restorer, shown_address(path))
    if is_remote(path):
        reachable(expanded(path), "weights")
    folder, step = split_step(path)
    if not folder.exists():
        # A local path of the same name has precedence.
        if (named := named_weights(path)) is None:
            names = shipped()
            raise WeightsError(
                f"weights {path!r}: there is no {folder}, and there are no weights of this name"
                f"{nearest(path, names)}; ipt weights lists: {', '.join(names) or 'none'}"
            )
        folder = expanded(named)
    described = (folder / "model.json").exists()
    if described and step:
        raise WeightsError(f"weights {path!r}: {folder} is a weights folder, which has no steps")
    if folder.is_dir() and not described:
        return _adapted(read_run(folder, step, raw), task, dtype)
    if is_remote(folder):
        from ipt_jax.weights import web

        restorer = _load_local(web.fetch_from_bucket(folder), task, heads, dtype)
        return _with_address(restorer, os.fspath(folder))
    return _load_local(Path(folder), task, heads, dtype)


def _load_local(path: Path, task: str | None, heads: int | None, dtype: str) -> Restorer:
    """Loads a local weights folder or file."""
    if path.is_dir():
        from ipt_jax.weights import folder

        return _adapted(folder.read_weights_folder(path), task, dtype)
    return _adapted(read_file(path, task=task, heads=heads), None, dtype)


def _with_address(restorer: Restorer, address: str) -> Restorer:
    """Returns weights whose provenance has the address that they were loaded from."""
    return dataclasses.replace(restorer, provenance={**restorer.provenance, "address": address})


def read_file(path: Any, *, task: str | None = None, heads: int | None = None) -> Restorer:
    """Reads a file: our own .npz, which names its tasks, or a file with the authors' names.

    Args:
      path: the file.
      task, heads: see `load`.

    Raises:
      WeightsError: the file contains no weights.
    """
    from ipt_jax.weights import folder as weights_folder
    from ipt_jax.weights.authors import read_authors_file
    from ipt_jax.weights.tensor_files import read_tensor_file

    file = Path(path)
    if not file.is_file():
        raise WeightsError(f"{file} is not a file")
    content = read_tensor_file(file)
    if "model.json" not in content.tensors:
        return read_authors_file(file, task=task, heads=heads, content=content)
    restorer = weights_folder.restorer_from_npz(content.tensors, str(file))
    return restorer.only([word.strip() for word in task.split(",")]) if task else restorer


def _adapted(restorer: Restorer, task: str | None, dtype: str) -> Restorer:
    """Returns the weights with these tasks only, to compute in this dtype."""
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype must be 'float32' or 'bfloat16', not {dtype!r}")
    if task is not None:
        try:
            restorer = restorer.only([word.strip() for word in task.split(",")])
        except ValueError as error:
            raise WeightsError(str(error)) from None
    model = restorer.model.clone(dtype=jnp.dtype(dtype), remat="none")
    return Restorer(model, restorer.params, restorer.tasks, restorer.provenance)


def geometry_of(path: str) -> dict[str, Any]:
    """Returns the keys of a config's `model` that weights determine."""
    model = load(path).model
    return {key: getattr(model, key) for key in GEOMETRY}
