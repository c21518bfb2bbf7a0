"""Golden outputs, and the weights that they belong to.

The weights are a function of their name, their shape and a seed, so no file of weights is needed.
`golden.npz` has samples of the outputs of the authors' published inference code with these weights
in float64, and of the losses: every k-th value of each array, and its largest magnitude.
"""

from __future__ import annotations

import zlib
from typing import Any

import jax
import numpy as np
import places

from ipt_jax.model import IPT
from ipt_jax.weights import state_dict

FILE = places.GOLDEN / "golden.npz"
SCALES = (("sr2", 2), ("sr3", 3), ("sr4", 4), ("derain", 1), ("denoise30", 1), ("denoise50", 1))


def tiny(out_bias: bool = False) -> IPT:
    """Returns the small network of the golden outputs."""
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
    """Returns a uniform tensor in PyTorch's layout. Its size depends on its role in the network."""
    draw = np.random.default_rng([seed, zlib.crc32(name.encode())]).uniform(-1, 1, shape)
    if len(shape) == 1:
        draw = 1 + 0.2 * draw if ".norm" in name and name.endswith("weight") else 0.1 * draw
    elif name not in (state_dict.POSITION, state_dict.QUERIES):
        draw = draw * np.sqrt(3 / np.prod(shape[1:])) * 0.8
        if "multihead_attn.in_proj" in name:
            draw[shape[1] :] /= 32
    return draw.astype(np.float32)


def params(model: IPT, seed: int) -> dict[str, Any]:
    """Returns the golden weights of a model, as our parameters."""
    shapes = jax.eval_shape(lambda: model.init_params(0))
    empty = jax.tree.map(lambda s: np.broadcast_to(np.float32(0), s.shape), shapes)
    state = {
        name: value
        if name.startswith(("sub_mean", "add_mean")) or name.endswith("position_ids")
        else tensor(name, value.shape, seed)
        for name, value in state_dict.params_to_torch(empty, model).items()
    }
    return state_dict.params_from_torch(state, model)


def difference(ours: Any, stored: np.lib.npyio.NpzFile, name: str) -> float:
    """Returns the largest difference from the stored samples, relative to the largest magnitude."""
    step, largest = int(stored[f"{name}/step"]), float(stored[f"{name}/largest"])
    sample = np.asarray(ours, np.float64).reshape(-1)[::step]
    return float(np.abs(sample - stored[name].astype(np.float64)).max() / largest)
