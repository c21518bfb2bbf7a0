"""Contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np


def sheet(
    rows: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]], side: int = 240
) -> np.ndarray:
    """A contact sheet, uint8 RGB: a row a task of clean, degraded and restored, the same cut at its
    own pixels.
    """
    cells = []
    for label, hq, before, after in rows:
        height, width = hq.shape[:2]
        y, x = max(0, (height - side) // 2), max(0, (width - side) // 2)
        strip = np.full((side + 22, side * 3 + 16, 3), 255, np.uint8)
        for i, image in enumerate((hq, before, after)):
            cut = image[y : y + side, x : x + side]
            strip[22 : 22 + cut.shape[0], i * (side + 8) : i * (side + 8) + cut.shape[1]] = cut
            text = ("clean", "degraded", "restored")[i] if i else f"{label}: clean"
            cv2.putText(
                strip,
                text,
                (i * (side + 8) + 2, 15),
                cv2.FONT_HERSHEY_SIMPLEX,
                0.45,
                (0, 0, 0),
                1,
                cv2.LINE_AA,
            )
        cells.append(strip)
    return np.concatenate(cells)


def save_png(path: Any, image: np.ndarray) -> None:
    """Writes a uint8 RGB picture to a local or remote path."""
    ok, data = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))
    if not ok:
        raise ValueError(f"cannot encode {path}")
    path.write_bytes(data.tobytes())
