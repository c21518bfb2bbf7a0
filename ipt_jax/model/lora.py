"""LoRA: low-rank adapters on matrices of the body.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021. For each target matrix
`W [..., in, out]` of the body there are `a [..., in, rank]` and `b [..., rank, out]`. The network
computes with `W + alpha / rank * a @ b`. `b` starts at zero, so adapters change nothing at first.
The adapters are a group of parameters of their own, "lora".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ipt_jax.errors import UserError
from ipt_jax.trees import Tree, matches, nested, paths

# The names of two groups of parameters.
BODY, LORA = "body", "lora"


def adapter_targets(params: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Returns the body's matrices that get an adapter, by their path inside the body.

    Raises:
      UserError: a pattern of `finetune.lora_targets` matches no matrix; the message lists them.
    """
    matrices = {
        path: leaf
        for path, leaf in paths(params[BODY])
        if leaf.ndim >= 2 and path.endswith(("qkv", "kernel"))
    }
    patterns = config["finetune"]["lora_targets"]
    for pattern in patterns:
        if not any(matches(path, [pattern]) for path in matrices):
            raise UserError(
                f"finetune.lora_targets: {pattern!r} matches none of the body's matrices: "
                f"{', '.join(matrices)}"
            )
    return {path: leaf for path, leaf in matrices.items() if matches(path, patterns)}


def add_adapters(params: Mapping[str, Any], config: Mapping[str, Any]) -> Tree:
    """Returns the parameters with a group of new adapters, if `finetune.lora_rank` is not 0.

    `a` is uniform in +-1 / sqrt(in), drawn from the config's seed.
    """
    rank = config["finetune"]["lora_rank"]
    if not rank:
        return dict(params)
    key = jax.random.fold_in(jax.random.key(config["seed"]), 1)
    adapters = {}
    for number, (path, kernel) in enumerate(adapter_targets(params, config).items()):
        *layers, inner, outer = kernel.shape
        target_key = jax.random.fold_in(key, number)
        shape = (*layers, inner, rank)
        a = jax.random.uniform(target_key, shape, jnp.float32, -1, 1) * inner**-0.5
        adapters[path] = {"a": a, "b": jnp.zeros((*layers, rank, outer), jnp.float32)}
    return {**params, LORA: nested(adapters)}


def merge_adapters(params: Mapping[str, Any], config: Mapping[str, Any]) -> Tree:
    """Returns the network's parameters, with the adapters, if any, added to their targets."""
    plain = {group: tree for group, tree in params.items() if group != LORA}
    if LORA not in params:
        return plain
    factor = config["finetune"]["lora_alpha"] / config["finetune"]["lora_rank"]
    adapters: dict[str, dict[str, Any]] = {}
    for path, leaf in paths(params[LORA]):
        target, _, which = path.rpartition("/")
        adapters.setdefault(target, {})[which] = leaf
    body = dict(paths(plain[BODY]))
    for target, pair in adapters.items():
        product = jnp.matmul(pair["a"], pair["b"], precision="highest")
        body[target] = body[target] + factor * product
    return {**plain, BODY: nested(body)}
