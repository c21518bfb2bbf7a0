"""Writes an ONNX file of one task, and runs it with onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ipt_jax.errors import WeightsError
from ipt_jax.export.parity import Run
from ipt_jax.restore.restorer import Restorer
from ipt_jax.restore.tiling import OVERLAP
from ipt_jax.versions import __version__, install


def write_onnx(restorer: Restorer, path: Path, dtype: str, layout: str = "nhwc") -> Run:
    """Writes the model's only task; returns a function that runs the file.

    Args:
      restorer: the model.
      path: the file.
      dtype: the dtype in which the file computes, "float32" or "float16".
      layout: "nhwc" for a graph that takes tiles, "nchw" for one that takes images.

    Returns:
      A function that runs the file: for "nhwc" a `parity.Run`, for "nchw" one that takes images of
      any size, `[B, H, W, 3]` in 0..255.

    Raises:
      WeightsError: onnx or onnxruntime is missing, or the weights have more than 2 GB, which is the
        limit of an ONNX file.
    """
    try:
        import onnx

        # The import shows whether the package is there before anything is written.
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise WeightsError(f"--format onnx needs {error.name}: {install('onnx')}") from None
    from ipt_jax.export.onnx_graph import build_graph
    from ipt_jax.export.onnx_images import build_image_graph

    (task,) = restorer.tasks.values()
    metadata = {
        "task": task.name,
        "scale": str(task.scale),
        "tile": str(restorer.model.tile),
        "dtype": dtype,
        "layout": layout,
        "range": "0..255" if layout == "nhwc" else "0..1",
        "channels": "RGB",
        "written by": f"ipt_jax {__version__}",
        "provenance": json.dumps(
            {k: v for k, v in restorer.provenance.items() if k != "from"}, default=str
        ),
    }
    network = (restorer.model, restorer.params, task.name, task.scale, dtype)
    if layout == "nchw":
        metadata["overlap"] = str(OVERLAP)
        model = build_image_graph(*network, OVERLAP, metadata)
    else:
        model = build_graph(*network, metadata)
    if model.ByteSize() >= 2**31 - 1:
        raise WeightsError(
            "these weights are larger than 2 GB, the limit of an ONNX file; use --dtype float16"
        )
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return read_onnx(path, layout)


def read_onnx(path: Path, layout: str = "nhwc") -> Run:
    """Returns a function that runs a file on the CPU; see `write_onnx`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    if layout == "nhwc":
        return lambda patches, task: session.run(
            None, {"patches": np.asarray(patches, np.float32)}
        )[0]

    def run(images: np.ndarray, task: str) -> np.ndarray:
        given = np.asarray(images, np.float32).transpose(0, 3, 1, 2) / np.float32(255)
        out: np.ndarray = session.run(None, {"image": given})[0]
        return out.transpose(0, 2, 3, 1) * np.float32(255)

    return run
