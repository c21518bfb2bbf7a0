"""IPT, the Pre-Trained Image Processing Transformer (Chen et al., CVPR 2021), in JAX and Flax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ipt_jax.versions import __version__

if TYPE_CHECKING:
    from ipt_jax.restore.restorer import Restorer

__all__ = ["__version__", "load"]


def load(path: str | None = None, **settings: Any) -> Restorer:
    """Loads a model by the name of shipped weights, or from a run, a weights folder or a file.

    For example, `ipt_jax.load("runs/demo").restore(image, task="sr2")` turns uint8 `[H, W, 3]`
    into uint8 `[2H, 2W, 3]`.

    Args:
      path: the weights, such as "ipt_small"; `DIR@1200` and `DIR@best` name a checkpoint of a run.
        None for the default weights.
      **settings: the settings of `ipt_jax.weights.load.load`, which this function calls.

    Raises:
      WeightsError: the weights are missing or do not fit.
    """
    # The import is local because jax takes a second to import.
    from ipt_jax.weights.load import load as load_weights

    return load_weights(path, **settings)
