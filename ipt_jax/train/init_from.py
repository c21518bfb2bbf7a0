"""From pre-trained weights to the parameters that a run starts with: what is loaded, what is new,
what is dropped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from ipt_jax.errors import ConfigError
from ipt_jax.log import logger
from ipt_jax.messages import nearest
from ipt_jax.model import IPT
from ipt_jax.model.init import STARTS
from ipt_jax.model.ipt import GEOMETRY
from ipt_jax.model.trainable import check_trainable, trained_part
from ipt_jax.restore.restorer import Restorer
from ipt_jax.weights import check
from ipt_jax.weights import load as loading

PARTS = ("head", "tail", "embedding")


@dataclasses.dataclass(frozen=True)
class TableRow:
    """A line of the table: a part of the parameters, how many, and what becomes of it."""

    part: str
    count: int
    fate: str


def start_params(path: str, model: IPT, config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's first parameters, from any WEIGHTS: the body, and the ends (head, tail, embedding) of
    tasks in both.

    Tasks that the weights lack get new ends as `finetune.new` says: "identity" or "torch"
    (model/start.py), or the name of a task of the weights, whose ends are copied; `new_task=rule,
    other_task=rule` says it for each. A tail of another scale cannot be copied and starts as
    `model.start`. The table of it all is logged.

    Raises:
      ConfigError: the weights have another geometry (all differences are listed), or a rule that
        does not fit.
      WeightsError: there are none, or not such.
    """
    found = loading.load(path)
    differing = differences(found.model, model)
    if differing:
        raise ConfigError(f"init_from={path!r} holds another model:\n  " + "\n  ".join(differing))
    params, lines = assemble(found, model, config)
    check.check_params(params, model, f"init_from={path!r}")
    logger.info("parameters from %s:\n%s", found.provenance.get("from", path), table(lines))
    return params


def differences(theirs: IPT, ours: IPT) -> list[str]:
    """Lines 'model.key: theirs, not ours' for each key of the geometry that differs."""
    pairs = [(key, getattr(theirs, key), getattr(ours, key)) for key in GEOMETRY]
    return [f"model.{key}: {a} in the weights, {b} asked for" for key, a, b in pairs if a != b]


def assemble(
    found: Restorer, model: IPT, config: Mapping[str, Any]
) -> tuple[dict[str, Any], list[TableRow]]:
    """The parameters, and the table's lines. Raises ConfigError for a task of another scale, or a
    rule that does not fit.
    """
    rules = rules_of(
        config["finetune"]["new"], [name for name in model.names if name not in found.tasks], found
    )
    params: dict[str, Any] = {"body": dict(found.params["body"])}
    lines = [TableRow("body", count(params["body"]), "loaded")]
    fresh: dict[str, dict[str, Any]] = {}

    def started(rule: str) -> dict[str, Any]:
        if rule not in fresh:
            fresh[rule] = jax.device_get(model.clone(start=rule).init_params(config["seed"]))
        return fresh[rule]

    for name, scale in model.scales:
        group = f"task_{name}"
        if name in found.tasks:
            if found.tasks[name].scale != scale:
                raise ConfigError(
                    f"tasks: {name!r} is x{found.tasks[name].scale} in the weights and x{scale} "
                    "here; rename it"
                )
            params[group] = dict(found.params[group])
            lines += [
                TableRow(f"{group}/{part}", count(params[group][part]), "loaded") for part in PARTS
            ]
            continue
        rule = rules[name]
        if rule in STARTS:
            params[group] = started(rule)[group]
            lines += [
                TableRow(f"{group}/{part}", count(params[group][part]), f"new ({rule} start)")
                for part in PARTS
            ]
            continue
        params[group] = dict(found.params[f"task_{rule}"])
        fates = dict.fromkeys(PARTS, f"copied from {rule}")
        if found.tasks[rule].scale != scale:
            params[group]["tail"] = started(model.start)[group]["tail"]
            fates["tail"] = (
                f"new ({model.start} start): {rule} is x{found.tasks[rule].scale}, not x{scale}"
            )
        lines += [
            TableRow(f"{group}/{part}", count(params[group][part]), fates[part]) for part in PARTS
        ]
    for name in found.tasks:
        if name not in model.names:
            lines.append(
                TableRow(
                    f"task_{name}",
                    count(found.params[f"task_{name}"]),
                    "dropped: not among the tasks",
                )
            )
    return params, lines


def rules_of(text: str, new: list[str], found: Restorer) -> dict[str, str]:
    """The rule for each new task, from `finetune.new`.

    Raises:
      ConfigError: neither a start nor a task of the weights, or for a task that is not new; the
        nearest is named.
    """
    known = [*STARTS, *found.tasks]
    rules: dict[str, str] = {}
    default = ""
    for word in (word.strip() for word in text.split(",") if word.strip()):
        name, equals, rule = (part.strip() for part in word.rpartition("="))
        if equals and name not in new:
            raise ConfigError(
                f"finetune.new: {name!r} is no new task{nearest(name, new)}; new: "
                f"{', '.join(new) or 'none'}"
            )
        if rule not in known:
            raise ConfigError(
                f"finetune.new: unknown {rule!r}{nearest(rule, known)}; known: {', '.join(known)}"
            )
        if equals:
            rules[name] = rule
        else:
            default = rule
    missing = [name for name in new if name not in rules and not default]
    if missing:
        raise ConfigError(
            f"finetune.new says nothing of {', '.join(missing)}; known: {', '.join(known)}"
        )
    return {name: rules.get(name, default) for name in new}


def count(tree: Any) -> int:
    """Numbers in a tree."""
    return sum(x.size for x in jax.tree.leaves(tree))


def table(lines: list[TableRow]) -> str:
    """The lines in columns."""
    width = max(len(line.part) for line in lines)
    return "\n".join(f"  {line.part:<{width}}  {line.count:>12,}  {line.fate}" for line in lines)


def trained_text(params: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """For the log: how many parameters there are and how many are trained, if not all. Raises
    UserError as check_trainable.
    """
    check_trainable(params, config)
    total, trained = count(params), count(trained_part(params, config))
    text = f"{total / 1e6:.1f} M parameters"
    return (
        text
        if trained == total
        else f"{text}, {trained:,} of them trained ({100 * trained / total:.2f} %)"
    )
