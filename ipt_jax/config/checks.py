"""Checks of a config that name what is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ml_collections import ConfigDict

from ipt_jax.distributed.sharding import SHARDINGS
from ipt_jax.errors import ConfigError
from ipt_jax.messages import nearest
from ipt_jax.metrics import METRICS
from ipt_jax.model.init import STARTS
from ipt_jax.model.layers import REMATERIALISATION
from ipt_jax.step.optim import OPTIMISERS, SCHEDULES
from ipt_jax.tasks import make_tasks
from ipt_jax.trees import flatten


def check_config(config: ConfigDict) -> None:
    """Everything about a config that can be checked without data and devices.

    Raises:
      ConfigError: names the key, the value and what it may be.
    """

    def need(holds: bool, key: str, what: str) -> None:
        if not holds:
            raise ConfigError(f"{key} must be {what}, not {flatten(config)[key]!r}")

    def choice(key: str, known: Iterable[str]) -> None:
        value = flatten(config)[key]
        if value not in known:
            raise ConfigError(
                f"{key}: unknown {value!r}{nearest(str(value), known)}; known: {', '.join(known)}"
            )

    try:
        tasks = make_tasks(config.tasks)
    except ValueError as error:
        raise ConfigError(f"tasks: {error}") from None
    for key in (
        "steps",
        "batch_size",
        "data.crops",
        "data.threads",
        "data.prefetch",
        "optim.accumulate",
        "optim.max_skipped",
        "checkpoint.every",
        "checkpoint.keep",
        "evaluate.pictures",
        "evaluate.batch",
        "log.every",
        "model.features",
        "model.patch",
        "model.heads",
        "model.hidden",
        "model.tile",
    ):
        need(flatten(config)[key] >= 1, key, "at least 1")
    for key in (
        "seed",
        "epochs",
        "model.encoder_layers",
        "model.decoder_layers",
        "devices",
        "data.epoch_crops",
        "finetune.lora_rank",
        "evaluate.patience",
        "data.held_out",
        "data.workers",
        "optim.warmup_steps",
        "optim.schedule_steps",
        "optim.decay_start",
        "optim.decay_steps",
        "optim.clip_norm",
        "checkpoint.keep_every",
        "evaluate.every",
        "evaluate.size",
        "evaluate.overlap",
        "loss.weight",
        "optim.max_spike",
        "log.stacks_after",
    ):
        need(flatten(config)[key] >= 0, key, "0 or more")
    need(
        config.loss.group >= 2, "loss.group", "at least 2: a picture needs another to be told from"
    )
    need(0 <= config.data.max_bad <= 1, "data.max_bad", "a share, 0 to 1")
    need(config.data.stalled > 0, "data.stalled", "above 0 seconds")
    need(0 <= config.optim.ema < 1, "optim.ema", "in [0, 1)")
    need(config.optim.learning_rate > 0, "optim.learning_rate", "above 0")
    decays = config.optim.schedule == "wsd" and config.optim.decay_start
    need(
        not decays or config.optim.decay_steps > 0,
        "optim.decay_steps",
        "above 0 where optim.decay_start is set",
    )
    need(
        not decays or config.optim.decay_start >= config.optim.warmup_steps,
        "optim.decay_start",
        "not within optim.warmup_steps",
    )
    need(
        0 < config.optim.drop_at <= 1,
        "optim.drop_at",
        "a share of schedule_steps, above 0 and at most 1",
    )
    spike = config.optim.max_spike
    need(
        spike == 0 or spike > 1,
        "optim.max_spike",
        "0, or above 1: times the recent mean of the loss",
    )
    need(config.model.input_scale > 0, "model.input_scale", "above 0")
    need(config.model.norm_eps > 0, "model.norm_eps", "above 0")
    choice("data.source", ("embedded", "folder", "pairs", "packed", "tfds"))
    choice("data.draw", ("all", "one"))
    choice("loss.contrastive", ("eq5", "supcon", "none"))
    choice("optim.name", OPTIMISERS)
    choice("optim.schedule", SCHEDULES)
    choice("sharding", SHARDINGS)
    choice("model.start", tuple(STARTS))
    choice("model.remat", tuple(REMATERIALISATION))
    choice("model.dtype", ("float32", "bfloat16"))
    need(
        config.model.tile % config.model.patch == 0,
        "model.tile",
        f"a multiple of model.patch ({config.model.patch})",
    )
    need(config.finetune.lora_alpha > 0, "finetune.lora_alpha", "above 0")
    need(
        bool(config.finetune.lora_targets) or not config.finetune.lora_rank,
        "finetune.lora_targets",
        "at least one pattern",
    )
    need(
        config.data.source != "pairs" or len(tasks) == 1,
        "tasks",
        "one task, where data.source=pairs says what it is",
    )
    need(
        bool(config.evaluate.best) or not config.evaluate.patience,
        "evaluate.best",
        "a metric where there is a patience",
    )
    if config.evaluate.best:
        metrics = (*METRICS, *(f"{task.name}/{metric}" for task in tasks for metric in METRICS))
        choice("evaluate.best", metrics)
        need(
            config.evaluate.every > 0,
            "evaluate.every",
            "above 0, since evaluate.best needs evaluations",
        )
    width = config.model.features * config.model.patch**2
    need(
        width % config.model.heads == 0,
        "model.heads",
        f"a divisor of the token width features * patch^2 = {width}",
    )
    need(
        config.model.features >= 4 or config.model.start == "torch",
        "model.features",
        "at least 4 for the identity start",
    )
    need(
        config.evaluate.overlap < config.model.tile,
        "evaluate.overlap",
        f"less than model.tile ({config.model.tile})",
    )
    check_batch(config, len(tasks), config.devices or 1, 1)


def check_batch(config: ConfigDict, tasks: int, devices: int, processes: int) -> None:
    """Whether the batch divides as it must.

    Raises:
      ConfigError: with the numbers, and the nearest batch sizes that do.
    """
    drawn = tasks if config.data.draw == "all" else 1
    rows = devices * config.loss.group * config.optim.accumulate
    # A picture's crops stay on the host that decodes it.
    unit = drawn * math.lcm(rows, processes * config.loss.group * config.data.crops)
    if config.batch_size % unit:
        below = config.batch_size // unit * unit
        near = f"{below} or {below + unit}" if below else f"{unit}"
        raise ConfigError(
            f"batch_size={config.batch_size} must be a multiple of {unit} = {drawn} task(s) a step "
            "x what "
            f"{devices} device(s), {processes} process(es), loss.group={config.loss.group}, "
            "optim.accumulate="
            f"{config.optim.accumulate} and data.crops={config.data.crops} need; try {near}"
        )
