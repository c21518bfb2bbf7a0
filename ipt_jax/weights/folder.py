"""A weights folder: `model.json`, which says what the weights are, and `weights.safetensors`.

It holds our own names and layout, so that it is read as it was written, and needs nothing but numpy
and safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ipt_jax import __version__, trees
from ipt_jax.degradations.paired import Paired
from ipt_jax.errors import WeightsError
from ipt_jax.model import IPT
from ipt_jax.model.ipt import GEOMETRY
from ipt_jax.restore.restorer import Restorer
from ipt_jax.tasks import TASKS, Task, entry_of, make_task
from ipt_jax.weights import tensor_files as tensors
from ipt_jax.weights.check import check_params
from ipt_jax.weights.named import named_task, sha256

FORMAT = 1


def describe(restorer: Restorer) -> dict[str, Any]:
    """What goes into `model.json`."""
    return {
        "format": FORMAT,
        "model": {key: getattr(restorer.model, key) for key in GEOMETRY},
        "tasks": [_entry(task) for task in restorer.tasks.values()],
        "provenance": dict(restorer.provenance),
        "written by": f"ipt_jax {__version__}",
    }


def _entry(task: Task) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": task.name, "scale": task.scale}
    made = entry_of(task.degrade)
    if task != TASKS.get(task.name) and made is not None:
        entry |= made
    return entry


def _task(entry: Mapping[str, Any]) -> Task:
    fields = dict(entry)
    name, scale = fields.pop("name"), fields.pop("scale")
    if "degradation" not in fields:
        return named_task(name, scale)
    try:
        scaled = {"scale": scale} if fields["degradation"] in ("bicubic", "pairs") else {}
        task = make_task({"name": name, **fields, **scaled})
    # Of a later version: the weights are still good for restoring
    except ValueError:
        return Task(name, scale, Paired(scale))
    return task


def write(restorer: Restorer, folder: Path, dtype: str = "float32") -> None:
    """Writes a weights folder, its tensors as `dtype`, "float32" or "float16"; they are float32
    again when they are read.

    Raises:
      WeightsError: there is something else in the folder.
    """
    if folder.exists() and (
        not folder.is_dir()
        or {f.name for f in folder.iterdir()} - {"model.json", "weights.safetensors"}
    ):
        raise WeightsError(f"{folder} exists and is not a weights folder; name another one")
    from safetensors.numpy import save

    folder.mkdir(parents=True, exist_ok=True)
    params = trees.flatten(restorer.params)
    flat = {
        key.replace(".", "/"): np.ascontiguousarray(value, np.dtype(dtype))
        for key, value in params.items()
    }
    (folder / "weights.safetensors.new").write_bytes(save(flat))
    described = {**describe(restorer), "sha256": sha256(folder / "weights.safetensors.new")}
    (folder / "weights.safetensors.new").replace(folder / "weights.safetensors")
    (folder / "model.json").write_text(json.dumps(described, indent=1) + "\n")


def write_npz(restorer: Restorer, path: Path) -> None:
    """Writes the same as one .npz: our flat names, and `model.json` as bytes."""
    flat: dict[str, Any] = {
        key.replace(".", "/"): np.asarray(value)
        for key, value in trees.flatten(restorer.params).items()
    }
    described = np.frombuffer(json.dumps(describe(restorer)).encode(), np.uint8)
    # Numpy would add .npz to another name
    with path.open("wb") as file:
        np.savez(file, **{"model.json": described, **flat})


def read(folder: Any) -> Restorer:
    """Reads a weights folder.

    Raises:
      WeightsError: it is not one, is of a newer format, or its tensors are not the model's; all
        that is wrong is listed.
    """
    where = Path(folder)
    if not (where / "weights.safetensors").is_file():
        raise WeightsError(f"{where}: no weights.safetensors beside model.json")
    described = _described((where / "model.json").read_bytes(), str(where / "model.json"))
    if described.get("sha256") not in (None, sha256(where / "weights.safetensors")):
        raise WeightsError(
            f"{where / 'weights.safetensors'} is not the file that model.json describes: its "
            "checksum differs"
        )
    return _restorer(described, tensors.read(where / "weights.safetensors"), str(where))


def from_flat(state: dict[str, np.ndarray], what: str) -> Restorer:
    """The model of an .npz that `write_npz` wrote."""
    flat = dict(state)
    return _restorer(_described(flat.pop("model.json").tobytes(), what), flat, what)


def _described(text: bytes, what: str) -> dict[str, Any]:
    try:
        described = json.loads(text)
        version = described["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{what} does not describe a model: {error!r}") from None
    if not isinstance(version, int) or not 1 <= version <= FORMAT:
        raise WeightsError(
            f"{what}: format {version!r}; this version of ipt_jax reads 1 to {FORMAT}: install a "
            "newer one"
        )
    return described


def _sensible(fields: Mapping[str, Any]) -> None:
    """Raises ValueError where a geometry could not even be traced."""
    for key, value in fields.items():
        if key in ("out_bias", "memory_norm"):
            good = isinstance(value, bool)
        elif key in ("input_scale", "norm_eps"):
            good = isinstance(value, (int, float)) and 0 < value < float("inf")
        else:
            least = 0 if key.endswith("_layers") else 1
            good = isinstance(value, int) and not isinstance(value, bool) and least <= value < 10**6
        if not good:
            raise ValueError(f"model.{key} is {value!r}")
    if (
        fields["tile"] % fields["patch"]
        or fields["features"] * fields["patch"] ** 2 % fields["heads"]
    ):
        raise ValueError("the patch must divide the tile, and the heads the token width")


def _restorer(described: Mapping[str, Any], flat: Mapping[str, np.ndarray], what: str) -> Restorer:
    try:
        tasks = {entry["name"]: _task(entry) for entry in described["tasks"]}
        fields = {key: described["model"][key] for key in GEOMETRY if key != "memory_norm"}
        # Not in files of version 0.1
        fields["memory_norm"] = described["model"].get("memory_norm", False)
        _sensible(fields)
        model = IPT(
            tuple((task.name, task.scale) for task in tasks.values()), dtype=jnp.float32, **fields
        )
        provenance = dict(described["provenance"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{what} does not describe a model: {error!r}") from None
    params = trees.nested(flat)
    check_params(params, model, what)
    return Restorer(model, params, tasks, provenance)
