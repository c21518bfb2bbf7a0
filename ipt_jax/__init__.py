"""IPT, the Pre-Trained Image Processing Transformer (Chen et al., CVPR 2021), in JAX and Flax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ipt_jax.versions import __version__

if TYPE_CHECKING:
    from ipt_jax.restore.restorer import Restorer

__all__ = ["__version__", "load"]


def load(path: str, **settings: Any) -> Restorer:
    """Loads weights of any kind, to restore pictures with: see `ipt_jax.weights.load.load`, which
    this calls.

    `ipt_jax.load("runs/demo").restore(image, task="sr2")`: uint8 `[H, W, 3]` -> uint8 `[2H, 2W,
    3]`.
    """
    # Late: jax takes a second to import
    from ipt_jax.weights import load as loading

    return loading.load(path, **settings)
