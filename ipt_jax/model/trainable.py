"""What a run trains: all parameters, those that no pattern freezes, or low-rank adapters beside a frozen body.

Parameters are nested dicts; here a parameter is named by its path, `body/encoder/self_attention/qkv`. What is trained is a
part of the tree, with the frozen leaves left out; moments and moving average are kept for that part alone.

LoRA (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021) is a group of its own, "lora": for each target
`W [..., in, out]` of the body, `a [..., in, rank]` and `b [..., rank, out]`. The network computes with
`W + alpha / rank * a @ b`; b starts at zero, so that nothing is changed at first.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ipt_jax.errors import UserError

Tree = dict[str, Any]

BODY, LORA = "body", "lora"


def paths(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(path, leaf) of nested dicts."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from paths(value, f"{prefix}{key}/")
        else:
            yield prefix + key, value


def nested(flat: Mapping[str, Any]) -> Tree:
    """The inverse of `paths`."""
    tree: Tree = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a path, or what it lies in, is one of the patterns: `body`, `body/encoder/*`, `*/tail`, `*norm*`."""
    parts = path.split("/")
    inside = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    return any(fnmatch.fnmatchcase(place, pattern.rstrip("/")) for pattern in patterns for place in inside)


def frozen(config: Mapping[str, Any]) -> Callable[[str], bool]:
    """Whether a parameter stays as it is, by its path.

    So does what `finetune.freeze` matches, and with LoRA the body; but not what `finetune.unfreeze` matches.
    """
    patterns = tuple(config["finetune"]["freeze"]) + ((BODY,) if config["finetune"]["lora_rank"] else ())
    exceptions = tuple(config["finetune"]["unfreeze"])
    return lambda path: matches(path, patterns) and not matches(path, exceptions)


def is_partial(config: Mapping[str, Any]) -> bool:
    """Whether a run trains less than all of its parameters."""
    return bool(config["finetune"]["freeze"] or config["finetune"]["lora_rank"])


def trained(params: Mapping[str, Any], config: Mapping[str, Any]) -> Tree:
    """The part of the parameters that is trained."""
    if not is_partial(config):
        return dict(params)
    is_frozen = frozen(config)
    return nested({path: leaf for path, leaf in paths(params) if not is_frozen(path)})


def overlay(params: Mapping[str, Any], part: Mapping[str, Any]) -> Tree:
    """The parameters with those of a part in their places."""
    new = dict(params)
    for key, value in part.items():
        new[key] = overlay(new[key], value) if isinstance(value, Mapping) else value
    return new


def check(params: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Whether patterns and targets mean something.

    Raises:
      UserError: a pattern that matches nothing, nothing left to train, nothing to unfreeze, or a target that is no matrix of
        the body.
    """
    known = [path for path, _ in paths(params)]
    for setting in ("freeze", "unfreeze"):
        for pattern in config["finetune"][setting]:
            if not any(matches(path, [pattern]) for path in known):
                raise UserError(f"finetune.{setting}: {pattern!r} matches no parameter; there are {_examples(known)}")
    if config["finetune"]["unfreeze"] and not is_partial(config):
        raise UserError("finetune.unfreeze: nothing is frozen; it is for what finetune.freeze or finetune.lora_rank freezes")
    if config["finetune"]["lora_rank"]:
        targets(params, config)
    elif all(map(frozen(config), known)):
        raise UserError(
            f"finetune.freeze={list(config['finetune']['freeze'])} freezes every parameter: nothing is left to train"
        )


def _examples(known: Sequence[str]) -> str:
    tops = sorted({"/".join(path.split("/")[:2]) for path in known})
    return ", ".join(tops[:12]) + (", ..." if len(tops) > 12 else "")


def targets(params: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The body's matrices that get an adapter, by path inside the body.

    Raises:
      UserError: a pattern that matches none; the message lists the matrices there are.
    """
    matrices = {path: leaf for path, leaf in paths(params[BODY]) if leaf.ndim >= 2 and path.endswith(("qkv", "kernel"))}
    patterns = config["finetune"]["lora_targets"]
    for pattern in patterns:
        if not any(matches(path, [pattern]) for path in matrices):
            raise UserError(f"finetune.lora_targets: {pattern!r} matches none of the body's matrices: {', '.join(matrices)}")
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
        down = jax.random.uniform(jax.random.fold_in(key, number), (*layers, inner, rank), jnp.float32, -1, 1) * inner**-0.5
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


def weights(params: Mapping[str, Any], ema: Mapping[str, Any] | None, config: Mapping[str, Any]) -> Tree:
    """What is evaluated and handed on: the moving average where there is one, with what it is not kept of; merged."""
    return merged(overlay(params, ema) if ema is not None else params, config)
