"""Published scores, which the report shows beside measured ones.

`published.json` holds PSNR in dB on Y, unless a score says RGB; a second number is SSIM. Borders
are cut as is usual for super-resolution.
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any


@functools.cache
def _tables() -> dict[str, Any]:
    text = resources.files("ipt_jax.evaluate").joinpath("published.json").read_text("utf-8")
    tables: dict[str, Any] = json.loads(text)
    return tables


def published(set_name: str, task: str, noise_clipped: bool | None = None) -> list[tuple[str, str]]:
    """Returns (method, score as text) for a set and a task; [] where no score is known.

    Args:
      set_name: canonical name of the set, in lower case.
      task: label of the task. A label with a sigma, "denoise50@70", is looked up by this sigma.
      noise_clipped: whether the noise was clipped to 0..255, as by IPT's code, or not, as by those
        of CBM3D, DnCNN and FFDNet. Scores of the other convention are left out.
    """
    super_resolution = [
        (method, rows[task][set_name])
        for method, rows in _tables()["psnr_y"].items()
        if set_name in rows.get(task, {})
    ]
    if super_resolution:
        return super_resolution
    head, _, sigma = task.partition("@")
    key = f"denoise@{float(sigma):g}" if sigma else head
    for entry in _tables()["other"]:
        convention = entry.get("clipped", noise_clipped)
        if (entry["set"], entry["task"], convention) == (set_name, key, noise_clipped):
            return list(entry["scores"].items())
    return []
