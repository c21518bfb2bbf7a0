"""Configs: every key with its default, loading a config file, overrides, and checks that name what is wrong.

A config file is an ml_collections one: `get_config()` returns a `ConfigDict` with the keys that it changes;
`default()` below holds every key there is.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ipt_jax.data import pipeline
from ipt_jax.data.sources.folder import Pairs, Source, open_source
from ipt_jax.distributed.sharding import SHARDINGS
from ipt_jax.errors import UserError
from ipt_jax.metrics import METRICS
from ipt_jax.model.init import STARTS
from ipt_jax.model.ipt import preset
from ipt_jax.model.layers import REMATERIALISATION
from ipt_jax.step.optim import OPTIMISERS, SCHEDULES
from ipt_jax.tasks import PAPER_TASKS, make_tasks, nearest

logger = logging.getLogger("ipt_jax")


class ConfigError(UserError):
    """A config that cannot be run; the message names the key and what it may be."""


def default() -> ConfigDict:
    """Every key of a training config, with its default."""
    return ConfigDict(
        dict(
            steps=1000,  # batches to take
            seed=0,  # of the data, and of the parameters' start
            batch_size=24,  # samples a step, all tasks and hosts together
            tasks=PAPER_TASKS,  # names, or {name, degradation, ...} dicts (tasks.py)
            epochs=0,  # instead of steps; an epoch is data.epoch_crops crops of each picture
            init_from="",  # WEIGHTS whose parameters to start with
            branch_from="",  # RUN@STEP whose whole state to start with: parameters, moments, EMA, step, place in the data
            devices=0,  # of this host; 0 = all, of all hosts
            sharding="data",  # of the state: data (whole on each device) or fsdp (large leaves in pieces)
            model=preset("ipt"),  # model/ipt.py
            data=dict(
                source="folder",  # embedded, folder, pairs, packed or tfds
                dir="",  # the folder of pictures or of pairs, the packed set, or TFDS's data_dir
                name="imagenet2012",  # of a TFDS set
                split="train",  # of a TFDS set
                held_out=4,  # pictures kept from training, for evaluation
                draw="all",  # tasks of a step: all, or one drawn at random as in the paper
                crops=1,  # of each task from a decoded picture
                epoch_crops=0,  # of each task from a picture in an epoch; 0 = data.crops, one pass over the pictures
                flips=False,  # flips and transpositions at random
                workers=0,  # processes that make batches; 0 = threads of this one
                threads=2,  # without workers
                prefetch=2,  # batches made ahead, by each worker
                stalled=1800.0,  # seconds without a batch before the run stops
                max_bad=0.2,  # share of pictures that may be unreadable (and replaced) before the run stops
            ),
            loss=dict(
                contrastive="eq5",  # eq5, supcon or none
                weight=0.1,  # lambda, for an L1 in 0..255
                group=2,  # pictures in a contrastive group
                temperature=0.07,  # of supcon
            ),
            optim=dict(
                name="adam",  # adam, or muon (optim.py)
                learning_rate=5e-5,
                final_learning_rate=2e-5,
                schedule="step",  # cosine, step, constant or wsd (optim.py)
                schedule_steps=0,  # its length; 0 = steps when the run begins
                warmup_steps=0,
                drop_at=2 / 3,  # share of schedule_steps at which "step" changes to final_learning_rate
                decay_start=0,  # step at which "wsd" begins to decay; 0 = never
                decay_steps=0,  # length of that decay
                b1=0.9,
                b2=0.999,
                eps=1e-8,
                clip_norm=0.0,  # of all gradients together; 0 = off
                ema=0.0,  # decay of the moving average of the weights; 0 = off
                accumulate=1,  # micro-batches a step
                max_spike=0.0,  # a step whose loss is that many times the recent mean changes nothing; 0 = off
                max_skipped=20,  # steps in a row that changed nothing before the run stops
            ),
            finetune=dict(
                new="identity",  # ends of tasks that init_from lacks: identity, torch, or a task of it to copy (finetune.py)
                freeze=(),  # patterns of parameters' paths that stay as they are: body, */tail, task_sr2/embedding
                unfreeze=(),  # and of those among them that are trained all the same: body/*bias, body/*norm*
                lora_rank=0,  # of adapters on the body, which is frozen then (adapt.py); 0 = none
                lora_alpha=8.0,  # an adapter counts alpha / rank times
                lora_targets=("*attention",),  # patterns of the body's matrices that get one
            ),
            checkpoint=dict(
                every=1000,  # steps
                keep=3,  # the last so many
                keep_every=0,  # and each step that this divides; 0 = none
            ),
            evaluate=dict(
                every=5000,  # steps; 0 = not at all, the end included
                pictures=4,  # held-out pictures to score, at most
                size=512,  # larger ones are cut to their middle; 0 = whole
                batch=16,  # tiles a call, for each device
                overlap=12,  # pixels by which tiles overlap
                best="",  # metric whose best checkpoint is kept: psnr_y, ..., the mean over tasks, or TASK/psnr_y; "" = none
                patience=0,  # evaluations without a better one after which the run stops; 0 = never
            ),
            log=dict(
                every=50,  # steps between two lines
                tensorboard=True,
                stacks_after=600.0,  # seconds without a step's end after which all threads' stacks are written; 0 = never
            ),
        )
    )


# What a resumed run may change (prefixes of dotted keys); anything else makes it another run.
MAY_CHANGE = (
    "steps",
    "epochs",
    "devices",
    "sharding",
    "data.dir",
    "data.workers",
    "data.threads",
    "data.prefetch",
    "data.max_bad",
    "data.stalled",
    "checkpoint.",
    "evaluate.",
    "log.",
    "optim.max_skipped",
    "init_from",
    "branch_from",
)

# What a branch of a run (branch_from) may change besides.
BRANCH_MAY_CHANGE = (
    "optim.schedule",
    "optim.schedule_steps",
    "optim.learning_rate",
    "optim.final_learning_rate",
    "optim.warmup_steps",
    "optim.drop_at",
    "optim.decay_start",
    "optim.decay_steps",
)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys -> values; lists and tuples are values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, (Mapping, ConfigDict)):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def find(path: str) -> Path:
    """A config file: the path as given, or among those that the package ships (`configs/demo.py`).

    Raises:
      ConfigError: there is no such file; the message lists the shipped ones.
    """
    here = Path(__file__).resolve().parent
    shipped = [folder for folder in (here / "configs", here.parent / "configs") if folder.is_dir()]
    for candidate in [Path(path), *(folder / Path(path).name for folder in shipped)]:
        if candidate.is_file():
            return candidate
    known = sorted({f"configs/{f.name}" for folder in shipped for f in folder.glob("*.py") if f.name != "__init__.py"})
    raise ConfigError(f"no config file {path!r}{nearest(path, known)}; shipped: {', '.join(known)}")


def load(
    path: str, overrides: Iterable[str] = (), *, model: Mapping[str, Any] | None = None, checked: bool = True
) -> ConfigDict:
    """The whole, checked config of a file and `key=value` overrides; `FILE:ARGUMENT` hands its get_config an argument.

    Args:
      path: the file.
      overrides: `key=value`s.
      model: values of `model` keys that take the place of the defaults.
      checked: False leaves `check` out.

    Raises:
      ConfigError: no such file, not a config, an unknown key or a value that does not fit.
    """
    name, colon, argument = path.partition(".py:")
    file = find(name + (".py" if colon else ""))
    spec = importlib.util.spec_from_file_location(f"ipt_config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file} is not a Python file with a get_config()")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        changes = module.get_config(*([argument] if colon else []))
    except (Exception, SystemExit) as error:  # a config is somebody's code: whatever it raises is theirs to read
        raise ConfigError(f"{file} does not give a config: {type(error).__name__}: {error}") from error
    if not isinstance(changes, ConfigDict):
        raise ConfigError(f"{file}: get_config() returned a {type(changes).__name__}, not an ml_collections ConfigDict")
    return complete(changes.to_dict(), overrides, model=model, checked=checked)


def complete(
    changes: Mapping[str, Any], overrides: Iterable[str] = (), *, model: Mapping[str, Any] | None = None, checked: bool = True
) -> ConfigDict:
    """The defaults with `changes` and then `key=value` overrides, checked. The other arguments are those of `load`.

    Raises:
      ConfigError: an unknown key or a value that does not fit.
    """
    config = default()
    for key, value in (model or {}).items():
        _set(config, f"model.{key}", value)
    for key, value in flatten(changes).items():
        _set(config, key, value)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"--config.{override} has no value: write --config.{key}=VALUE")
        _set(config, key, _parse(text))
    if checked:
        check(config)
    return config


def _parse(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text.lower(), text)


def _set(config: ConfigDict, key: str, value: Any) -> None:
    known = flatten(config)
    if key not in known:
        inside = [k for k in known if k.startswith(f"{key}.")]
        what = f"{key!r} is a group of keys ({', '.join(inside)})" if inside else f"unknown config key {key!r}"
        raise ConfigError(what + nearest(key, known))
    was = known[key]
    if isinstance(was, tuple):
        value = tuple(value.split(",")) if isinstance(value, str) else (value,) if isinstance(value, Mapping) else value
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{key} must be a list, not {value!r}")
        value = tuple(value)
    elif isinstance(was, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    elif isinstance(was, str) and not isinstance(value, str):
        value = str(value)
    if type(value) is not type(was):
        raise ConfigError(f"{key} must be a {type(was).__name__} (its default is {was!r}), not {value!r}")
    *path, last = key.split(".")
    for part in path:
        config = config[part]
    config[last] = value


def check(config: ConfigDict) -> None:
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
            raise ConfigError(f"{key}: unknown {value!r}{nearest(str(value), known)}; known: {', '.join(known)}")

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
    need(config.loss.group >= 2, "loss.group", "at least 2: a picture needs another to be told from")
    need(0 <= config.data.max_bad <= 1, "data.max_bad", "a share, 0 to 1")
    need(config.data.stalled > 0, "data.stalled", "above 0 seconds")
    need(0 <= config.optim.ema < 1, "optim.ema", "in [0, 1)")
    need(config.optim.learning_rate > 0, "optim.learning_rate", "above 0")
    decays = config.optim.schedule == "wsd" and config.optim.decay_start
    need(not decays or config.optim.decay_steps > 0, "optim.decay_steps", "above 0 where optim.decay_start is set")
    need(
        not decays or config.optim.decay_start >= config.optim.warmup_steps,
        "optim.decay_start",
        "not within optim.warmup_steps",
    )
    need(0 < config.optim.drop_at <= 1, "optim.drop_at", "a share of schedule_steps, above 0 and at most 1")
    spike = config.optim.max_spike
    need(spike == 0 or spike > 1, "optim.max_spike", "0, or above 1: times the recent mean of the loss")
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
    need(config.model.tile % config.model.patch == 0, "model.tile", f"a multiple of model.patch ({config.model.patch})")
    need(config.finetune.lora_alpha > 0, "finetune.lora_alpha", "above 0")
    need(bool(config.finetune.lora_targets) or not config.finetune.lora_rank, "finetune.lora_targets", "at least one pattern")
    need(config.data.source != "pairs" or len(tasks) == 1, "tasks", "one task, where data.source=pairs says what it is")
    need(bool(config.evaluate.best) or not config.evaluate.patience, "evaluate.best", "a metric where there is a patience")
    if config.evaluate.best:
        metrics = (*METRICS, *(f"{task.name}/{metric}" for task in tasks for metric in METRICS))
        choice("evaluate.best", metrics)
        need(config.evaluate.every > 0, "evaluate.every", "above 0, since evaluate.best needs evaluations")
    width = config.model.features * config.model.patch**2
    need(width % config.model.heads == 0, "model.heads", f"a divisor of the token width features * patch^2 = {width}")
    need(config.model.features >= 4 or config.model.start == "torch", "model.features", "at least 4 for the identity start")
    need(config.evaluate.overlap < config.model.tile, "evaluate.overlap", f"less than model.tile ({config.model.tile})")
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
            f"batch_size={config.batch_size} must be a multiple of {unit} = {drawn} task(s) a step x what "
            f"{devices} device(s), {processes} process(es), loss.group={config.loss.group}, optim.accumulate="
            f"{config.optim.accumulate} and data.crops={config.data.crops} need; try {near}"
        )


def data_of(config: Mapping[str, Any] | ConfigDict) -> dict[str, Any]:
    """What `sources.open_source` needs: the `data` part, and for pairs the task's scale (0: to be found)."""
    data = dict(config["data"])
    return {**data, "scale": make_tasks(config["tasks"])[0].scale} if data["source"] == "pairs" else data


def open_data(config: ConfigDict) -> tuple[ConfigDict, Source]:
    """The training pictures, and the config with what only they settle: the scale of pairs, the steps of `epochs`.

    Raises:
      DataError: the data cannot be used, or pairs are of another scale than the task.
    """
    source = open_source(data_of(config), "train")
    config = ConfigDict(config.to_dict())
    if isinstance(source, Pairs) and isinstance(config.tasks[0], Mapping) and config.tasks[0].get("degradation") == "pairs":
        config.tasks = ({**config.tasks[0], "scale": source.scale},)
    if not config.epochs:
        return config, source
    drawn = len(config.tasks) if config.data.draw == "all" else 1
    crops = config.data.epoch_crops or config.data.crops
    samples = pipeline.epoch_pictures(len(source), config.loss.group) * crops * drawn
    config.steps = max(1, math.ceil(config.epochs * samples / config.batch_size))
    tasks = f" for each of {drawn} tasks" if drawn > 1 else ""
    logger.info(
        "an epoch is %d crop(s) of each of the %d pictures%s: %d samples, %.1f steps of %d; %d epoch(s) are %d steps",
        crops, len(source), tasks, samples, samples / config.batch_size, config.batch_size, config.epochs, config.steps,
    )  # fmt: skip
    return config, source


def resolve(config: ConfigDict, schedule_steps: int = 0) -> dict[str, Any]:
    """A plain dict of the config with the schedule's length settled: its own key, else the run's, else `steps`."""
    plain = config.to_dict()
    plain["tasks"] = [task if isinstance(task, str) else dict(task) for task in plain["tasks"]]
    plain["optim"]["schedule_steps"] = config.optim.schedule_steps or schedule_steps or config.steps
    return plain


def differences(old: Mapping[str, Any], new: Mapping[str, Any], may_change: Sequence[str] = MAY_CHANGE) -> list[str]:
    """Lines 'key: old -> new' for what a resumed run may not change; a key that a run is too old to have has its default."""
    known, a, b = (flatten(json.loads(json.dumps(tree))) for tree in (default().to_dict(), old, new))
    a = {**known, **a}
    keys = [k for k in sorted({*a, *b}) if not any(k == m or (m.endswith(".") and k.startswith(m)) for m in may_change)]
    missing = "(none)"
    return [f"{k}: {a.get(k, missing)!r} -> {b.get(k, missing)!r}" for k in keys if a.get(k, missing) != b.get(k, missing)]


def fingerprint(plain: Mapping[str, Any]) -> str:
    """A hex digest of all that makes it this run and not another."""
    fixed = {
        k: v for k, v in flatten(plain).items() if not any(k == m or (m.endswith(".") and k.startswith(m)) for m in MAY_CHANGE)
    }
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]
