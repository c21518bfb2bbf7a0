"""An ONNX file of one task, run with onnxruntime to check it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ipt_jax.errors import WeightsError
from ipt_jax.export.parity import Run
from ipt_jax.restore.restorer import Restorer
from ipt_jax.versions import __version__


def write(restorer: Restorer, path: Path, dtype: str) -> Run:
    """Writes the model's one task; returns the file as onnxruntime runs it.

    Raises:
      WeightsError: onnx or onnxruntime is missing, or the weights are more than the 2 GB that a
        file of it holds.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401  it is asked for before anything is written
    except ImportError as error:
        raise WeightsError(
            f"--format onnx needs {error.name}: pip install 'ipt_jax[onnx]'"
        ) from None
    from ipt_jax.export import onnx_graph as graph

    (task,) = restorer.tasks.values()
    said = {
        "task": task.name,
        "scale": str(task.scale),
        "tile": str(restorer.model.tile),
        "dtype": dtype,
        "range": "0..255",
        "channels": "RGB",
        "written by": f"ipt_jax {__version__}",
        "provenance": json.dumps(
            {k: v for k, v in restorer.provenance.items() if k != "from"}, default=str
        ),
    }
    made = graph.build(restorer.model, restorer.params, task.name, task.scale, dtype, said)
    if made.ByteSize() >= 2**31 - 1:
        raise WeightsError(
            "these weights are larger than the 2 GB that one ONNX file holds; use --dtype float16"
        )
    onnx.checker.check_model(made, full_check=True)
    path.write_bytes(made.SerializeToString())
    return read(path)


def read(path: Path) -> Run:
    """The file as something to call, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    return lambda patches, task: session.run(None, {"patches": np.asarray(patches, np.float32)})[0]
