"""Checks of a config. An error names the key, its value and what it may be."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ml_collections import ConfigDict

from ipt_jax.config.keys import TABLE, unknown_choice
from ipt_jax.errors import ConfigError
from ipt_jax.metrics import METRICS
from ipt_jax.tasks import Task, make_tasks
from ipt_jax.trees import flatten


def check_config(config: ConfigDict) -> None:
    """Checks everything about a config that can be checked without data and devices.

    Bounds and choices of single keys come from the table of keys; the functions below check
    conditions on several keys.

    Raises:
      ConfigError: a value is not allowed.
    """
    try:
        tasks = make_tasks(config.tasks)
    except ValueError as error:
        raise ConfigError(f"tasks: {error}") from None
    values = flatten(config)
    for key in TABLE:
        key.check(values[key.name])
    _check_model(config)
    _check_schedule(config)
    profiled_steps(config.log.profile)
    _check_evaluation(config, tasks)
    _need(
        bool(config.finetune.lora_targets) or not config.finetune.lora_rank,
        config,
        "finetune.lora_targets",
        "at least one pattern where finetune.lora_rank is set",
    )
    _need(
        config.data.source != "pairs" or len(tasks) == 1,
        config,
        "tasks",
        "one task, where data.source=pairs provides its images",
    )
    check_batch(config, len(tasks), config.devices or 1, 1)


def _need(holds: bool, config: ConfigDict, key: str, what: str) -> None:
    """Raises ConfigError that a key must be something else, unless the condition holds."""
    if not holds:
        raise ConfigError(f"{key} must be {what}, not {flatten(config)[key]!r}")


def _check_model(config: ConfigDict) -> None:
    model = config.model
    _need(
        model.tile % model.patch == 0,
        config,
        "model.tile",
        f"a multiple of model.patch ({model.patch})",
    )
    width = model.features * model.patch**2
    _need(
        width % model.heads == 0,
        config,
        "model.heads",
        f"a divisor of the token width features * patch^2 = {width}",
    )
    _need(
        model.features >= 4 or model.start == "torch",
        config,
        "model.features",
        "at least 4 for the identity start",
    )


def profiled_steps(text: str) -> range:
    """Returns the steps that a value of `log.profile`, "FIRST:LAST" or "", stands for.

    Raises:
      ConfigError: the value is something else.
    """
    if not text:
        return range(0)
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise ConfigError(
            f"log.profile must be FIRST:LAST, two steps from 1 on, such as 100:110, not {text!r}"
        )
    return range(int(first), int(last) + 1)


def _check_schedule(config: ConfigDict) -> None:
    optim = config.optim
    if optim.schedule != "wsd" or not optim.decay_start:
        return
    _need(
        optim.decay_steps > 0,
        config,
        "optim.decay_steps",
        "above 0 where optim.decay_start is set",
    )
    _need(
        optim.decay_start >= optim.warmup_steps,
        config,
        "optim.decay_start",
        f"at least optim.warmup_steps ({optim.warmup_steps})",
    )


def _check_evaluation(config: ConfigDict, tasks: Sequence[Task]) -> None:
    evaluate = config.evaluate
    _need(
        evaluate.overlap < config.model.tile,
        config,
        "evaluate.overlap",
        f"less than model.tile ({config.model.tile})",
    )
    _need(
        bool(evaluate.best) or not evaluate.patience,
        config,
        "evaluate.best",
        "a metric where evaluate.patience is set",
    )
    if not evaluate.best:
        return
    choices = (*METRICS, *(f"{task.name}/{metric}" for task in tasks for metric in METRICS))
    if evaluate.best not in choices:
        raise unknown_choice("evaluate.best", evaluate.best, choices)
    _need(
        evaluate.every > 0,
        config,
        "evaluate.every",
        "above 0, because evaluate.best needs evaluations",
    )


def check_batch(config: ConfigDict, tasks: int, devices: int, processes: int) -> None:
    """Checks that the batch divides over tasks, devices, processes, groups and micro-batches.

    Args:
      config: the config.
      tasks: number of the config's tasks.
      devices: number of devices of the run.
      processes: number of processes of the run.

    Raises:
      ConfigError: it does not; the message has the numbers and the nearest batch sizes that do.
    """
    drawn = tasks if config.data.draw == "all" else 1
    rows = devices * config.loss.group * config.optim.accumulate
    # All crops of an image stay on the host that decodes it.
    unit = drawn * math.lcm(rows, processes * config.loss.group * config.data.crops)
    if config.batch_size % unit:
        below = config.batch_size // unit * unit
        near = f"{below} or {below + unit}" if below else f"{unit}"
        raise ConfigError(
            f"batch_size={config.batch_size} must be a multiple of {unit} = {drawn} task(s) a step "
            f"x what {devices} device(s), {processes} process(es), loss.group={config.loss.group}, "
            f"optim.accumulate={config.optim.accumulate} and data.crops={config.data.crops} need; "
            f"try {near}"
        )
