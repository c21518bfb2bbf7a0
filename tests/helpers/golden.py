"""Weights that are a function of their name, shape and a seed, so that golden outputs need no
weights file.

`golden.npz` holds samples of what the authors' published inference code computes with such weights
in float64 (and of the losses): every so many-th value of each array, and its largest magnitude.
"""

from __future__ import annotations

import zlib
from typing import Any

import jax
import numpy as np
import places

from ipt_jax.model import IPT
from ipt_jax.weights import state_dict as weights

FILE = places.GOLDEN / "golden.npz"
SCALES = (("sr2", 2), ("sr3", 3), ("sr4", 4), ("derain", 1), ("denoise30", 1), ("denoise50", 1))


def tiny(out_bias: bool = False) -> IPT:
    return IPT(
        SCALES,
        features=8,
        heads=2,
        encoder_layers=2,
        decoder_layers=2,
        hidden=288,
        out_bias=out_bias,
    )


def tensor(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A tensor in PyTorch's layout: uniform, of a size that depends on what the name says it is."""
    draw = np.random.default_rng([seed, zlib.crc32(name.encode())]).uniform(-1, 1, shape)
    if len(shape) == 1:
        draw = 1 + 0.2 * draw if ".norm" in name and name.endswith("weight") else 0.1 * draw
    elif name not in (weights.POSITION, weights.QUERIES):
        draw = draw * np.sqrt(3 / np.prod(shape[1:])) * 0.8
        if "multihead_attn.in_proj" in name:
            draw[shape[1] :] /= 32
    return draw.astype(np.float32)


def params(model: IPT, seed: int) -> dict[str, Any]:
    """The golden weights of a model, as our parameters."""
    shapes = jax.eval_shape(lambda: model.init_params(0))
    empty = jax.tree.map(lambda s: np.broadcast_to(np.float32(0), s.shape), shapes)
    state = {
        name: value
        if name.startswith(("sub_mean", "add_mean")) or name.endswith("position_ids")
        else tensor(name, value.shape, seed)
        for name, value in weights.params_to_torch(empty, model).items()
    }
    return weights.params_from_torch(state, model)


def difference(ours: Any, stored: np.lib.npyio.NpzFile, name: str) -> float:
    """Largest difference over largest magnitude, on the stored samples of an array."""
    step, largest = int(stored[f"{name}/step"]), float(stored[f"{name}/largest"])
    sample = np.asarray(ours, np.float64).reshape(-1)[::step]
    return float(np.abs(sample - stored[name].astype(np.float64)).max() / largest)
