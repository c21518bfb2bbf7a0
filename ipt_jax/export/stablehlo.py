"""The network for one task as a StableHLO program, with its weights (`jax.export`).

The program takes any number of tiles and runs on CPU, CUDA and TPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from ipt_jax.export.parity import Run
from ipt_jax.model.ipt import GEOMETRY, RGB_MEAN
from ipt_jax.restore.restorer import Restorer
from ipt_jax.versions import versions
from ipt_jax.weights.state_dict import params_from_torch, params_to_torch

PLATFORMS = ("cpu", "cuda", "tpu")


def write_program(restorer: Restorer, path: Path) -> Run:
    """Writes the program of the model's only task; returns it, read back from the file."""
    (task,) = restorer.tasks.values()
    # In the authors' form the network computes in 0..255, so that the caller does not have to scale
    # the pixels.
    model = restorer.model.clone(input_scale=1.0, remat="none")
    params = params_from_torch(params_to_torch(restorer.params, restorer.model), model)
    held = jax.tree.map(jnp.asarray, params)
    tile = model.tile

    def forward(patches: jax.Array) -> jax.Array:
        return model.apply({"params": held}, {task.name: patches})[0][task.name]

    (batch,) = export.symbolic_shape("batch")
    program = export.export(jax.jit(forward), platforms=PLATFORMS)(
        jax.ShapeDtypeStruct((batch, tile, tile, 3), jnp.float32)
    )
    path.write_bytes(program.serialize())
    return read_program(path)


def read_program(path: Path) -> Run:
    """Returns a function that runs the program in a file."""
    program = export.deserialize(bytearray(path.read_bytes()))
    return lambda patches, task: np.asarray(program.call(patches))


def describe_program(restorer: Restorer) -> dict[str, Any]:
    """Returns the content of the JSON file beside the program, which explains its use."""
    (task,) = restorer.tasks.values()
    tile = restorer.model.tile
    return {
        "format": 1,
        "task": task.name,
        "scale": task.scale,
        "tile": tile,
        "input": {
            "shape": ["batch", tile, tile, 3],
            "dtype": "float32",
            "range": [0, 255],
            "channels": "RGB",
        },
        "output": {
            "shape": ["batch", tile * task.scale, tile * task.scale, 3],
            "dtype": "float32",
            "range": "0..255, neither clipped nor rounded",
        },
        "normalisation": {
            "mean": list(RGB_MEAN),
            "where": "inside the program: give it plain pixels",
        },
        "platforms": list(PLATFORMS),
        "model": {key: getattr(restorer.model, key) for key in GEOMETRY},
        "versions": versions(),
    }
