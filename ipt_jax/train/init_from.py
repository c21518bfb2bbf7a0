"""`init_from=WEIGHTS`: the first parameters of a run, from pre-trained weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
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

# The parts of a task's own parameters.
PARTS = ("head", "tail", "embedding")


@dataclasses.dataclass(frozen=True)
class TableRow:
    """A row of the table that is logged.

    Attributes:
      part: a part of the parameters.
      count: the number of its parameters.
      fate: what becomes of it: loaded, new, copied or dropped.
    """

    part: str
    count: int
    fate: str


def start_params(path: str, model: IPT, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the first parameters of a run, from weights of any kind.

    The body is loaded, and so are the parameters (head, tail, embedding) of tasks that the weights
    have. Other tasks get new parameters by the rules of `finetune.new`: a start ("identity" or
    "torch", see `model/init.py`), or the name of a task of the weights, whose parameters are
    copied. `new_task=rule,other_task=rule` gives a rule for each task. The tail of a task with
    another scale cannot be copied and starts as `model.start`. The log has a table of all parts.

    Args:
      path: the value of `init_from`.
      model: the run's network.
      config: the resolved config.

    Raises:
      ConfigError: the weights have another geometry (the message lists all differences), or a rule
        does not fit.
      WeightsError: there are no weights at `path`, or they cannot be read.
    """
    found = loading.load(path)
    differing = differences(found.model, model)
    if differing:
        raise ConfigError(f"init_from={path!r} holds another model:\n  " + "\n  ".join(differing))
    params, rows = assemble(found, model, config)
    check.check_params(params, model, f"init_from={path!r}")
    logger.info("parameters from %s:\n%s", found.provenance.get("from", path), table(rows))
    return params


def differences(weights: IPT, run: IPT) -> list[str]:
    """Returns a line for each key of the geometry that differs."""
    pairs = [(key, getattr(weights, key), getattr(run, key)) for key in GEOMETRY]
    return [f"model.{key}: {a} in the weights, {b} asked for" for key, a, b in pairs if a != b]


def assemble(
    found: Restorer, model: IPT, config: Mapping[str, Any]
) -> tuple[dict[str, Any], list[TableRow]]:
    """Returns the parameters, and the rows of the table.

    Raises:
      ConfigError: a task has another scale in the weights, or a rule does not fit.
    """
    new = [name for name in model.names if name not in found.tasks]
    rules = rules_of(config["finetune"]["new"], new, found)
    params: dict[str, Any] = {"body": dict(found.params["body"])}
    rows = [TableRow("body", count(params["body"]), "loaded")]
    fresh: dict[str, dict[str, Any]] = {}

    def started(rule: str) -> dict[str, Any]:
        """Returns the parameters of a start, which are computed once."""
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
            params[group], fates = dict(found.params[group]), dict.fromkeys(PARTS, "loaded")
        else:
            params[group], fates = _new_task(name, scale, rules[name], found, model, started)
        rows += [
            TableRow(f"{group}/{part}", count(params[group][part]), fates[part]) for part in PARTS
        ]
    for name in found.tasks:
        if name not in model.names:
            group = f"task_{name}"
            dropped = count(found.params[group])
            rows.append(TableRow(group, dropped, "dropped: not among the tasks"))
    return params, rows


def _new_task(
    name: str,
    scale: int,
    rule: str,
    found: Restorer,
    model: IPT,
    started: Callable[[str], dict[str, Any]],
) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the parameters of a task that the weights lack, and the fate of each part."""
    if rule in STARTS:
        return started(rule)[f"task_{name}"], dict.fromkeys(PARTS, f"new ({rule} start)")
    params = dict(found.params[f"task_{rule}"])
    fates = dict.fromkeys(PARTS, f"copied from {rule}")
    if found.tasks[rule].scale != scale:
        params["tail"] = started(model.start)[f"task_{name}"]["tail"]
        fates["tail"] = (
            f"new ({model.start} start): {rule} is x{found.tasks[rule].scale}, not x{scale}"
        )
    return params, fates


def rules_of(text: str, new: list[str], found: Restorer) -> dict[str, str]:
    """Returns the rule for each new task.

    Args:
      text: the value of `finetune.new`.
      new: the tasks that the weights lack.
      found: the weights.

    Raises:
      ConfigError: a rule is neither a start nor a task of the weights, or is for a task that is not
        new (the message names the nearest one), or a new task has no rule.
    """
    known = [*STARTS, *found.tasks]
    rules: dict[str, str] = {}
    default = ""
    for word in (word.strip() for word in text.split(",") if word.strip()):
        name, equals, rule = (part.strip() for part in word.rpartition("="))
        if equals and name not in new:
            raise ConfigError(
                f"finetune.new: {name!r} is not a new task{nearest(name, new)}; new tasks: "
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
            f"finetune.new has no rule for {', '.join(missing)}; known rules: {', '.join(known)}"
        )
    return {name: rules.get(name, default) for name in new}


def count(tree: Any) -> int:
    """Returns the number of parameters in a tree."""
    return sum(x.size for x in jax.tree.leaves(tree))


def table(rows: list[TableRow]) -> str:
    """Returns the rows as text in columns."""
    width = max(len(row.part) for row in rows)
    return "\n".join(f"  {row.part:<{width}}  {row.count:>12,}  {row.fate}" for row in rows)


def trained_text(params: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Returns, for the log, how many parameters there are and how many of them are trained.

    Raises:
      UserError: the config's choice of trained parameters does not fit (`check_trainable`).
    """
    check_trainable(params, config)
    total, trained = count(params), count(trained_part(params, config))
    text = f"{total / 1e6:.1f} M parameters"
    if trained == total:
        return text
    return f"{text}, {trained:,} of them trained ({100 * trained / total:.2f} %)"
