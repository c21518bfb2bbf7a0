"""Writes the degraded inputs of an evaluation, so that other programs restore the same ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ipt_jax.errors import UsageError
from ipt_jax.images.sheet import save_png
from ipt_jax.messages import printable
from ipt_jax.restore.images import to_uint8


class InputFolder:
    """A folder for degraded inputs: `<folder>/<set>/<task>/<image>.png`.

    Noise is not rounded to whole numbers when it is scored. Where the values of an input are no
    whole numbers in 0..255, `<image>.npy` has them exactly (float32 `[H, W, 3]`), beside the PNG,
    in which they are rounded and clipped.

    Args:
      folder: the folder, which must be new or empty.

    Raises:
      UsageError: the folder has files.
    """

    def __init__(self, folder: str):
        self._folder = Path(folder)
        if self._folder.exists() and (not self._folder.is_dir() or any(self._folder.iterdir())):
            raise UsageError(
                f"--save-inputs {printable(folder)}: this must be a new or empty folder"
            )

    def save(self, set_name: str, task: str, name: str, lq: np.ndarray) -> None:
        """Writes an input, uint8 or float32 `[H, W, 3]`."""
        path = self._folder / set_name / task / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        rounded = to_uint8(lq) if lq.dtype != np.uint8 else lq
        save_png(path, rounded)
        if not np.array_equal(rounded, lq):
            np.save(path.with_suffix(".npy"), lq.astype(np.float32))
