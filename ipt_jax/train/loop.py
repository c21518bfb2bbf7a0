"""A run, from top to bottom: devices, data, model, state, step, evaluator, loop."""

from __future__ import annotations

import contextlib
import dataclasses

import jax
from etils import epath
from ml_collections import ConfigDict

from ipt_jax import log
from ipt_jax.checkpoints.checkpoints import Checkpoints
from ipt_jax.config import checks, resolve
from ipt_jax.data import pipeline
from ipt_jax.distributed import devices
from ipt_jax.distributed import process_group as hosts
from ipt_jax.distributed import sharding as partition
from ipt_jax.distributed import start as distributed
from ipt_jax.errors import CheckpointError, ConfigError
from ipt_jax.model import IPT, build
from ipt_jax.run_folder import curves as plots
from ipt_jax.run_folder import lock
from ipt_jax.run_folder import metrics_log as metrics_log_module
from ipt_jax.step.state import TrainState, abstract_state, init_state, state_shardings
from ipt_jax.step.train_step import compile_step
from ipt_jax.storage import reachable
from ipt_jax.tasks import make_tasks
from ipt_jax.train import branch, data
from ipt_jax.train import init_from as finetune
from ipt_jax.train.best_checkpoint import BestCheckpoint
from ipt_jax.train.identity import Run, check_same, versions
from ipt_jax.train.reporter import StepReporter
from ipt_jax.train.stop_signals import StopSignals
from ipt_jax.train.validation import Validator
from ipt_jax.train.watchdog import Watchdog

logger = log.logger


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended: the steps that are done, whether that is all of them, and the last
    evaluation's means.
    """

    step: int
    finished: bool
    scores: dict[str, dict[str, float]]


def pretrain(config: ConfigDict, workdir: str, force: bool = False) -> Outcome:
    """Trains as the config says, in a folder of its own; goes on by itself where that folder's run
    stopped.

    Args:
      config: from `config.load` or `config.complete`.
      workdir: the run's folder.
      force: go on although the folder's run has another config or other data (logged).

    Raises:
      ConfigError, DataError, Locked: what was asked for cannot be run; nothing was changed.
      CheckpointError, RunError: a fault while running.
    """
    folder = epath.Path(workdir).expanduser()
    reachable(folder, "workdir")

    # Processes: the same run in all of them?
    line = distributed.line()
    check_same(line, "config", resolve.resolve(config))
    check_same(line, "version", versions())

    # Devices.
    try:
        mesh = devices.make_mesh(config.devices)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    checks.check_batch(config, len(config.tasks), mesh.size, jax.process_count())

    # Data, and whether the folder's run is this one.
    config, source = data.open_data(config)
    tasks = make_tasks(config.tasks)
    run = Run.open(folder, config, source, force)
    plain = run.config
    check_same(line, "data", run.data)
    batches = pipeline.make_batches(source, tasks, plain, jax.process_index(), jax.process_count())

    # Model, step and evaluator.
    model = build(plain["model"], tasks)
    train_step = compile_step(model, plain, mesh)
    evaluator = Validator(model, tasks, plain, mesh, folder)

    # State. In this order: 1 this run's own newest good checkpoint, 2 `branch_from`, 3 `init_from`,
    # 4 from scratch.
    keep = plain["checkpoint"]
    with (
        lock.hold(folder, devices.is_main()),
        Checkpoints(
            folder / "checkpoints", keep=keep["keep"], keep_every=keep["keep_every"]
        ) as checkpoints,
    ):
        run.check_shared(line)
        state, start = first_state(model, run, mesh, checkpoints, line)
        trained = finetune.trained_text(state.params, plain)
        run.begin()
        best = BestCheckpoint.open(folder, plain["evaluate"], start, line)
        checkpoints.protect(best.step)
        if start >= config.steps or best.exhausted:
            logger.info(
                "%s is at step %d of %d: nothing left to train", folder, start, config.steps
            )
        else:
            logger.info(
                "%s: step %d of %d, %d tasks, %s, %d pictures, %s",
                folder,
                start,
                config.steps,
                len(tasks),
                trained,
                len(source),
                ", ".join(f"{k} {v}" for k, v in devices.describe().items()),
            )

        # Loop. The state saved at step i is the one before batch i is taken.
        metrics_log = metrics_log_module.MetricsLog(
            folder, start, start >= config.steps, plain["log"]["tensorboard"], devices.is_main()
        )
        meter = StepReporter(plain, len(source), batches, metrics_log)
        scores: dict[str, dict[str, float]] = {}
        step = start
        with (
            StopSignals(line) as stop,
            Watchdog(plain["log"]["stacks_after"]) as watchdog,
            contextlib.closing(
                pipeline.stream(batches, start, config.steps, plain["data"], stop.impatient)
            ) as items,
        ):
            while step < config.steps and not best.exhausted and not stop.requested(step):
                item = meter.wait_for(items)
                # A stop is asked for, and data do not come
                if item is None:
                    continue
                state, metrics = train_step(state, partition.put_batch(item.batch, mesh))
                step += 1
                # Reads the step before, while this one runs
                meter.took(step, metrics, item)
                watchdog.step_ended()
                if step % keep["every"] == 0 and step < config.steps:
                    with meter.paused():
                        save(checkpoints, step, state, run)
                if evaluator.due(step) and step < config.steps:
                    with meter.paused():
                        scores = evaluator(state, step, metrics_log)
                        if best.add(step, scores):
                            checkpoints.protect(step)
                            if step % keep["every"]:
                                save(checkpoints, step, state, run)
            meter.finish()
            save(checkpoints, step, state, run, last=True)
            checkpoints.wait()
        early, finished = best.exhausted, step >= config.steps or best.exhausted
        if step >= config.steps and plain["evaluate"]["every"]:
            scores = evaluator(state, step, metrics_log)
            best.add(step, scores)
        if devices.is_main() and step > start:
            with log.extra(folder / "curves.png"):
                plots.save_curves(folder / "curves.png", metrics_log.lines())
        metrics_log.close()
    if early:
        logger.info(
            "stopped early: no better %s in %d evaluations; the best is step %s, %s@best",
            best.metric,
            best.patience,
            best.step,
            folder,
        )
    if finished:
        logger.info(
            "done: %d steps; checkpoints in %s, log in %s",
            step,
            folder / "checkpoints",
            folder / "metrics.jsonl",
        )
    else:
        logger.warning(
            "stopped by %s at step %d of %d, saved; start the same command again to go on",
            stop.name,
            step,
            config.steps,
        )
    return Outcome(step, finished, scores)


def first_state(
    model: IPT,
    run: Run,
    mesh: jax.sharding.Mesh,
    checkpoints: Checkpoints,
    line: hosts.ProcessGroup,
) -> tuple[TrainState, int]:
    """The state to start from, laid out as the step wants it, and its step."""
    plain = run.config
    kept = state_shardings(model, plain, mesh)
    fresh = jax.jit(lambda params: init_state(params, plain), out_shardings=kept)
    # A host may see less of a shared folder
    if line.gather("newest checkpoint", checkpoints.latest())[0] is not None:
        state, meta = checkpoints.restore(partition.abstract(abstract_state(model, plain), kept))
        return state, int(meta["step"])
    if plain["branch_from"]:
        return branch.state(
            plain["branch_from"], run, partition.abstract(abstract_state(model, plain), kept)
        )
    if plain["init_from"]:
        return fresh(finetune.start_params(plain["init_from"], model, plain)), 0
    return fresh(model.init_params(plain["seed"])), 0


def save(
    checkpoints: Checkpoints, step: int, state: TrainState, run: Run, last: bool = False
) -> None:
    """Saves in the background. A failure is said loudly and the run goes on: the older checkpoints
    are whole.

    Raises:
      CheckpointError: the last save failed.
    """
    try:
        checkpoints.wait()
    # Of the save before, whose place this one takes
    except CheckpointError as error:
        logger.error("%s; going on", error)
    try:
        checkpoints.save(step, state, run.meta())
    except CheckpointError as error:
        if last:
            raise
        logger.error(
            "%s; going on, the next save is in %d steps", error, run.config["checkpoint"]["every"]
        )
