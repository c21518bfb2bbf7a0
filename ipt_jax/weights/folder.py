"""A weights folder: `model.json`, which describes the weights, and `weights.safetensors`.

It has this project's names and layout, and reading it needs only numpy and safetensors. An .npz
file can hold the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from ipt_jax.degradations.paired import Paired
from ipt_jax.errors import NotRegular, WeightsError
from ipt_jax.model import IPT
from ipt_jax.model.ipt import GEOMETRY
from ipt_jax.restore.restorer import Restorer
from ipt_jax.storage import read_regular
from ipt_jax.tasks import TASKS, Task, entry_of, make_task
from ipt_jax.trees import nested
from ipt_jax.versions import __version__
from ipt_jax.weights.check import check_params
from ipt_jax.weights.task_names import task_from_name
from ipt_jax.weights.tensor_files import read_tensor_file, sha256_of

# Bytes of the longest `model.json` that is read.
LARGEST_DESCRIPTION = 16 << 20
# Version of the format. Older versions can be read.
FORMAT = 1


def _describe(restorer: Restorer) -> dict[str, Any]:
    """Returns the content of `model.json`."""
    return {
        "format": FORMAT,
        "model": {key: getattr(restorer.model, key) for key in GEOMETRY},
        "tasks": [_entry_of(task) for task in restorer.tasks.values()],
        "provenance": dict(restorer.provenance),
        "written by": f"ipt_jax {__version__}",
    }


def _entry_of(task: Task) -> dict[str, Any]:
    """Returns the description of a task; one that is not in the table has its degradation."""
    entry: dict[str, Any] = {"name": task.name, "scale": task.scale}
    degradation = entry_of(task.degrade)
    if task != TASKS.get(task.name) and degradation is not None:
        entry |= degradation
    return entry


def _task_of(entry: Mapping[str, Any]) -> Task:
    """Returns the task of a description."""
    fields = dict(entry)
    name, scale = fields.pop("name"), fields.pop("scale")
    if "degradation" not in fields:
        return task_from_name(name, scale)
    try:
        scaled = {"scale": scale} if fields["degradation"] in ("bicubic", "pairs") else {}
        return make_task({"name": name, **fields, **scaled})
    except ValueError:
        # A later version may know the degradation. The weights can be used for restoring.
        return Task(name, scale, Paired(scale))


def _flat(params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns parameters by names such as "body/encoder/norm1/norm/scale"."""
    flat: dict[str, Any] = flatten_dict(dict(params), sep="/")
    return flat


def write_weights_folder(restorer: Restorer, folder: Path, dtype: str = "float32") -> None:
    """Writes a weights folder.

    Args:
      restorer: the weights.
      folder: the folder, which is made if it does not exist.
      dtype: "float32" or "float16", the dtype in the file. Reading gives float32.

    Raises:
      WeightsError: the folder contains other files.
    """
    if folder.exists() and (
        not folder.is_dir()
        or {f.name for f in folder.iterdir()} - {"model.json", "weights.safetensors"}
    ):
        raise WeightsError(f"{folder} exists and is not a weights folder; name another one")
    from safetensors.numpy import save

    folder.mkdir(parents=True, exist_ok=True)
    flat = {
        name: np.ascontiguousarray(value, np.dtype(dtype))
        for name, value in _flat(restorer.params).items()
    }
    part = folder / "weights.safetensors.new"
    part.write_bytes(save(flat))
    described = {**_describe(restorer), "sha256": sha256_of(part)}
    part.replace(folder / "weights.safetensors")
    (folder / "model.json").write_text(json.dumps(described, indent=1) + "\n")


def write_npz(restorer: Restorer, path: Path) -> None:
    """Writes an .npz file: the parameters by flat names, and `model.json` as bytes."""
    flat: dict[str, Any] = {
        name: np.asarray(value) for name, value in _flat(restorer.params).items()
    }
    described = np.frombuffer(json.dumps(_describe(restorer)).encode(), np.uint8)
    # An open file is given, because numpy would add .npz to a name without it.
    with path.open("wb") as file:
        np.savez(file, **{"model.json": described, **flat})


def read_weights_folder(folder: Any) -> Restorer:
    """Reads a weights folder.

    Args:
      folder: a local path.

    Raises:
      WeightsError: it is not a weights folder, has a newer format, or its tensors are not the
        model's; all differences are listed.
    """
    where = Path(folder)
    if not (where / "weights.safetensors").is_file():
        raise WeightsError(f"{where}: no weights.safetensors beside model.json")
    try:
        text = read_regular(where / "model.json", LARGEST_DESCRIPTION)
    except NotRegular as error:
        raise WeightsError(f"{where / 'model.json'}: {error.strerror}") from None
    described = _described(text, str(where / "model.json"))
    if described.get("sha256") not in (None, sha256_of(where / "weights.safetensors")):
        raise WeightsError(
            f"{where / 'weights.safetensors'} is not the file that model.json describes: its "
            "checksum differs"
        )
    flat = read_tensor_file(where / "weights.safetensors").tensors
    return _restorer_of(described, flat, str(where))


def restorer_from_npz(tensors: Mapping[str, np.ndarray], what: str) -> Restorer:
    """Returns the weights of an .npz file that `write_npz` wrote.

    Args:
      tensors: the content of the file, `model.json` included.
      what: the name of the file, for messages.

    Raises:
      WeightsError: see `read_weights_folder`.
    """
    flat = dict(tensors)
    return _restorer_of(_described(flat.pop("model.json").tobytes(), what), flat, what)


def _described(text: bytes, what: str) -> dict[str, Any]:
    """Returns the content of `model.json` after a check of its format version."""
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


def _check_geometry(fields: Mapping[str, Any]) -> None:
    """Raises ValueError where a model of this geometry could not be traced."""
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


def _restorer_of(
    described: Mapping[str, Any], flat: Mapping[str, np.ndarray], what: str
) -> Restorer:
    try:
        tasks = {entry["name"]: _task_of(entry) for entry in described["tasks"]}
        fields = {key: described["model"][key] for key in GEOMETRY if key != "memory_norm"}
        # Files of version 0.1 do not have this key.
        fields["memory_norm"] = described["model"].get("memory_norm", False)
        _check_geometry(fields)
        model = IPT(
            tuple((task.name, task.scale) for task in tasks.values()), dtype=jnp.float32, **fields
        )
        provenance = dict(described["provenance"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{what} does not describe a model: {error!r}") from None
    try:
        params = nested(flat)
    # A name that is the start of another name, "body" and "body/linear".
    except (TypeError, ValueError, IndexError) as error:
        raise WeightsError(f"{what}: its names of tensors conflict ({error})") from None
    check_params(params, model, what)
    return Restorer(model, params, tasks, provenance)
