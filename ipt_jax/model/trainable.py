"""Which parameters a run trains: all, those that no pattern freezes, or low-rank adapters.

A parameter is named by its path in the nested dict, `body/encoder/self_attention/qkv`. The trained
part of the parameters is the same nested dict without the frozen leaves. The optimiser's moments
and the EMA exist for the trained part only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ipt_jax.errors import UserError
from ipt_jax.model.lora import BODY, adapter_targets, merge_adapters
from ipt_jax.trees import Tree, matches, nested, paths


def is_partial(config: Mapping[str, Any]) -> bool:
    """Returns whether a run trains less than all of its parameters."""
    return bool(config["finetune"]["freeze"] or config["finetune"]["lora_rank"])


def freeze_rule(config: Mapping[str, Any]) -> Callable[[str], bool]:
    """Returns a function that tells from a parameter's path whether the parameter is frozen.

    A parameter is frozen if `finetune.freeze` matches it, or if it belongs to the body and there
    are adapters, and if `finetune.unfreeze` does not match it.
    """
    settings = config["finetune"]
    frozen = (*settings["freeze"], *([BODY] if settings["lora_rank"] else []))
    unfrozen = tuple(settings["unfreeze"])
    return lambda path: matches(path, frozen) and not matches(path, unfrozen)


def trained_part(params: Mapping[str, Any], config: Mapping[str, Any]) -> Tree:
    """Returns the part of the parameters that is trained."""
    if not is_partial(config):
        return dict(params)
    is_frozen = freeze_rule(config)
    return nested({path: leaf for path, leaf in paths(params) if not is_frozen(path)})


def overlay(params: Mapping[str, Any], part: Mapping[str, Any]) -> Tree:
    """Returns the parameters, with the leaves of `part` in place of their own."""
    new = dict(params)
    for key, value in part.items():
        new[key] = overlay(new[key], value) if isinstance(value, Mapping) else value
    return new


def weights_for_use(
    params: Mapping[str, Any], ema: Mapping[str, Any] | None, config: Mapping[str, Any]
) -> Tree:
    """Returns the weights for evaluation and export.

    These are the EMA where there is one, and the raw values of parameters that have none, with the
    adapters merged into the body.
    """
    return merge_adapters(overlay(params, ema) if ema is not None else params, config)


def check_trainable(params: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Checks the patterns of `finetune` against the parameters.

    Raises:
      UserError: a pattern matches no parameter, every parameter is frozen, `finetune.unfreeze` is
        set although nothing is frozen, or an adapter's target is no matrix of the body.
    """
    settings = config["finetune"]
    known = [path for path, _ in paths(params)]
    for key in ("freeze", "unfreeze"):
        for pattern in settings[key]:
            if not any(matches(path, [pattern]) for path in known):
                raise UserError(
                    f"finetune.{key}: {pattern!r} matches no parameter; known: {_examples(known)}"
                )
    if settings["unfreeze"] and not is_partial(config):
        raise UserError(
            "finetune.unfreeze: nothing is frozen; it makes exceptions from finetune.freeze and "
            "finetune.lora_rank"
        )
    if settings["lora_rank"]:
        adapter_targets(params, config)
    elif all(map(freeze_rule(config), known)):
        raise UserError(
            f"finetune.freeze={list(settings['freeze'])} freezes every parameter, so nothing is "
            "left to train"
        )


def _examples(known: Sequence[str]) -> str:
    """Returns the first two parts of the paths, as examples of patterns."""
    starts = sorted({"/".join(path.split("/")[:2]) for path in known})
    return ", ".join(starts[:12]) + (", ..." if len(starts) > 12 else "")
