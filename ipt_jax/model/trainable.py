"""What a run trains: all parameters, those that no pattern freezes, or low-rank adapters beside a
frozen body.

Parameters are nested dicts; here a parameter is named by its path,
`body/encoder/self_attention/qkv`. What is trained is a part of the tree, with the frozen leaves
left out; moments and moving average are kept for that part alone.

LoRA (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021) is a group of its own,
"lora": for each target `W [..., in, out]` of the body, `a [..., in, rank]` and `b [..., rank,
out]`. The network computes with `W + alpha / rank * a @ b`; b starts at zero, so that nothing is
changed at first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ipt_jax.errors import UserError
from ipt_jax.model.lora import BODY, merged, targets
from ipt_jax.trees import matches, nested, paths

Tree = dict[str, Any]


def frozen(config: Mapping[str, Any]) -> Callable[[str], bool]:
    """Whether a parameter stays as it is, by its path.

    So does what `finetune.freeze` matches, and with LoRA the body; but not what `finetune.unfreeze`
    matches.
    """
    patterns = tuple(config["finetune"]["freeze"]) + (
        (BODY,) if config["finetune"]["lora_rank"] else ()
    )
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
      UserError: a pattern that matches nothing, nothing left to train, nothing to unfreeze, or a
        target that is no matrix of the body.
    """
    known = [path for path, _ in paths(params)]
    for setting in ("freeze", "unfreeze"):
        for pattern in config["finetune"][setting]:
            if not any(matches(path, [pattern]) for path in known):
                raise UserError(
                    f"finetune.{setting}: {pattern!r} matches no parameter; there are "
                    f"{_examples(known)}"
                )
    if config["finetune"]["unfreeze"] and not is_partial(config):
        raise UserError(
            "finetune.unfreeze: nothing is frozen; it is for what finetune.freeze or "
            "finetune.lora_rank freezes"
        )
    if config["finetune"]["lora_rank"]:
        targets(params, config)
    elif all(map(frozen(config), known)):
        raise UserError(
            f"finetune.freeze={list(config['finetune']['freeze'])} freezes every parameter: "
            "nothing is left to train"
        )


def _examples(known: Sequence[str]) -> str:
    tops = sorted({"/".join(path.split("/")[:2]) for path in known})
    return ", ".join(tops[:12]) + (", ..." if len(tops) > 12 else "")


def weights(
    params: Mapping[str, Any], ema: Mapping[str, Any] | None, config: Mapping[str, Any]
) -> Tree:
    """What is evaluated and handed on: the moving average where there is one, with what it is not
    kept of; merged.
    """
    return merged(overlay(params, ema) if ema is not None else params, config)
