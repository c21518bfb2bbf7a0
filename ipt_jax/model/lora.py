"""Low-rank adapters (LoRA) on matrices of the body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ipt_jax.errors import UserError
from ipt_jax.trees import matches, nested, paths

Tree = dict[str, Any]


BODY, LORA = "body", "lora"


def targets(params: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The body's matrices that get an adapter, by path inside the body.

    Raises:
      UserError: a pattern that matches none; the message lists the matrices there are.
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


def with_adapters(params: Mapping[str, Any], config: Mapping[str, Any]) -> Tree:
    """The parameters, and with `finetune.lora_rank` a group of adapters that change nothing yet."""
    rank = config["finetune"]["lora_rank"]
    if not rank:
        return dict(params)
    key = jax.random.fold_in(jax.random.key(config["seed"]), 1)
    adapters = {}
    for number, (path, kernel) in enumerate(targets(params, config).items()):
        *layers, inner, outer = kernel.shape
        down = (
            jax.random.uniform(
                jax.random.fold_in(key, number), (*layers, inner, rank), jnp.float32, -1, 1
            )
            * inner**-0.5
        )
        adapters[path] = {"a": down, "b": jnp.zeros((*layers, rank, outer), jnp.float32)}
    return {**params, LORA: nested(adapters)}


def merged(params: Mapping[str, Any], config: Mapping[str, Any]) -> Tree:
    """Plain parameters for the network: adapters, if any, added to what they adapt."""
    plain = {group: tree for group, tree in params.items() if group != LORA}
    if LORA not in params:
        return plain
    factor = config["finetune"]["lora_alpha"] / config["finetune"]["lora_rank"]
    adapters: dict[str, dict[str, Any]] = {}
    for path, leaf in paths(params[LORA]):
        place, _, which = path.rpartition("/")
        adapters.setdefault(place, {})[which] = leaf
    body = dict(paths(plain[BODY]))
    for path, pair in adapters.items():
        body[path] = body[path] + factor * jnp.matmul(pair["a"], pair["b"], precision="highest")
    return {**plain, BODY: nested(body)}
