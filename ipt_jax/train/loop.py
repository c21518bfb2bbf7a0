"""A run from top to bottom: set-up, first state, loop, end."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from ipt_jax import log
from ipt_jax.checkpoints.checkpoints import Checkpoints
from ipt_jax.distributed import devices, sharding
from ipt_jax.log import logger
from ipt_jax.run_folder import folder as names
from ipt_jax.run_folder.curves import save_curves
from ipt_jax.run_folder.metrics_log import MetricsLog
from ipt_jax.step import optim
from ipt_jax.step.state import TrainState
from ipt_jax.train import init_from
from ipt_jax.train.best_checkpoint import BestCheckpoint
from ipt_jax.train.goodput import Goodput
from ipt_jax.train.reporter import StepReporter
from ipt_jax.train.saved_state import StateSaver, first_state
from ipt_jax.train.setup import Setup, prepare
from ipt_jax.train.stop_signals import StopSignals
from ipt_jax.train.validation import GivenUp
from ipt_jax.train.watchdog import Watchdog


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
      step: the number of steps that are done.
      finished: whether nothing is left to train.
      scores: the means of the last evaluation, `{task: {metric: value}}`.
      stopped_early: whether `evaluate.patience` ended the run.
    """

    step: int
    finished: bool
    scores: dict[str, dict[str, float]]
    stopped_early: bool = False


def pretrain(config: ConfigDict, workdir: str, force: bool = False) -> Outcome:
    """Trains as the config says, in a folder of its own; resumes the run of an existing folder.

    Args:
      config: from `config.load` or `config.complete`.
      workdir: the run's folder.
      force: resume even if the folder's run has another config or other data (both are logged).

    Raises:
      ConfigError, DataError, Locked: the run cannot be done as asked for; nothing was changed.
      CheckpointError: the storage does not work at the start, or later for several saves in a row.
      LockLost, RunError: the folder was taken or deleted; another fault while running.
    """
    goodput = Goodput()
    setup = prepare(config, workdir, force)
    steps, save_every = setup.config["steps"], setup.config["checkpoint"]["every"]
    with StopSignals(setup.group) as stop, setup.opened() as (lock, checkpoints):
        # 1 this run's own newest intact checkpoint, 2 branch_from, 3 init_from, 4 from scratch.
        state, start = first_state(setup.run, setup.model, setup.mesh, setup.group, checkpoints)
        best, metrics_log = begin(setup, checkpoints, state, start)
        saver = StateSaver(checkpoints, setup.run, lock)
        state = saver.prove_storage(start, state)
        reporter = StepReporter(setup.config, setup.images, setup.batches, metrics_log, goodput)

        # The state saved at step i is the one before batch i is taken.
        step = start
        scores: dict[str, dict[str, float]] = {}
        with (
            Watchdog(setup.config["log"]["stacks_after"]) as watchdog,
            contextlib.closing(setup.items(start, given_up=stop.impatient)) as items,
            contextlib.closing(setup.profiler(start)) as profiler,
        ):
            while step < steps and not best.exhausted and not stop.requested(step):
                lock.check(quick=True)
                item = reporter.wait_for(items)
                if item is None:
                    # The data did not come in time after a signal; the loop's condition stops.
                    continue
                step += 1
                with reporter.dispatching(item), profiler.annotated(step):
                    batch = sharding.put_batch(item.batch, setup.mesh)
                    state, metrics = setup.train_step(state, batch)
                # This reads the metrics of the step before, while the new step runs.
                reporter.step_dispatched(step, metrics, item)
                profiler.step_dispatched(step, metrics)
                watchdog.step_ended()
                if step % save_every == 0 and step < steps:
                    with reporter.paused("saving"):
                        saver.save(step, state)
                if setup.validator.due(step) and step < steps:
                    with reporter.paused("evaluating"):
                        scores = setup.validator(state, step, metrics_log)
                    if best.add(step, scores):
                        checkpoints.protect(step)
                        if step % save_every:
                            with reporter.paused("saving"):
                                saver.save(step, state)
            reporter.finish()
            with goodput.spent("saving"):
                saver.save_last(step, state)
        done = Outcome(step, False, scores)
        with goodput.spent("evaluating"):
            outcome = finish(setup, state, done, start, best, metrics_log, stop.anywhere)
    log_end(setup, outcome, best, stop.name)
    if step > start:
        logger.info("time of this run: %s", goodput)
    return outcome


def begin(
    setup: Setup, checkpoints: Checkpoints, state: TrainState, start: int
) -> tuple[BestCheckpoint, MetricsLog]:
    """Writes the run's config, reads earlier evaluations, and opens the metrics log.

    Raises:
      UserError: the config's choice of trained parameters does not fit the model; nothing was
        written.
    """
    config, steps = setup.config, setup.config["steps"]
    trained = init_from.trained_text(state.params, config)
    setup.run.begin()
    best = BestCheckpoint.open(setup.folder, config["evaluate"], start, setup.group)
    checkpoints.protect(best.step)
    if start >= steps or best.exhausted:
        logger.info("%s is at step %d of %d: nothing left to train", setup.folder, start, steps)
    else:
        logger.info(
            "%s: step %d of %d, %d tasks, %s, %d images, %s",
            setup.folder,
            start,
            steps,
            len(config["tasks"]),
            trained,
            setup.images,
            ", ".join(f"{key} {value}" for key, value in devices.describe().items()),
        )
        _warn_of_final_rate(config, start)
    metrics_log = MetricsLog(
        setup.folder,
        start,
        start >= steps,
        config["log"]["tensorboard"],
        devices.is_main(),
        config,
    )
    return best, metrics_log


def _warn_of_final_rate(config: Mapping[str, Any], start: int) -> None:
    """Logs that the schedule ends before the run does, and how to stretch it."""
    settings, steps = config["optim"], config["steps"]
    end = optim.last_step(settings)
    if end is None or end >= steps:
        return
    keys = "optim.schedule_steps"
    stretched = f"--config.optim.schedule_steps={steps}"
    if settings["schedule"] == "wsd":
        keys = "optim.decay_start + optim.decay_steps"
        start_of_decay = max(settings["decay_start"], steps - settings["decay_steps"])
        stretched = f"--config.optim.decay_start={start_of_decay}"
    logger.warning(
        "the learning rate's schedule ends at step %d (%s): the steps from %d to %d train at the "
        "final rate, %g. To stretch the schedule, set %s in a new run, or in a branch of this one "
        "from a checkpoint before its end (--config.branch_from=RUN@STEP)",
        end,
        keys,
        max(start, end),
        steps,
        settings["final_learning_rate"],
        stretched,
    )


def finish(
    setup: Setup,
    state: TrainState,
    outcome: Outcome,
    start: int,
    best: BestCheckpoint,
    metrics_log: MetricsLog,
    given_up: Callable[[str], bool],
) -> Outcome:
    """Evaluates the state after the last step, plots the curves, and closes the metrics log.

    A run whose evaluation is given up after a signal is not finished: the same command repeats it.
    """
    step, scores = outcome.step, outcome.scores
    # The evaluation below must not turn a run that did all its steps into one that stopped early.
    stopped_early, complete = best.exhausted, step >= setup.config["steps"]
    finished = complete or stopped_early
    if complete and setup.config["evaluate"]["every"]:
        try:
            scores = setup.validator(state, step, metrics_log, given_up)
            best.add(step, scores)
        except GivenUp:
            finished = False
    if devices.is_main() and step > start:
        curves = setup.folder / names.CURVES
        with log.extra(curves):
            save_curves(curves, metrics_log.lines())
    metrics_log.close()
    return Outcome(step, finished, scores, stopped_early)


def log_end(setup: Setup, outcome: Outcome, best: BestCheckpoint, signal: str) -> None:
    """Logs how the run ended.

    Args:
      setup: the run.
      outcome: its end.
      best: its evaluations.
      signal: the signal that stopped the run before its end.
    """
    folder = setup.folder
    if outcome.stopped_early:
        logger.info(
            "stopped early: no better %s in %d evaluations; the best is step %s, %s@best",
            best.metric,
            best.patience,
            best.step,
            folder,
        )
    if outcome.finished:
        logger.info(
            "done: %d steps; checkpoints in %s, log in %s",
            outcome.step,
            folder / names.CHECKPOINTS,
            folder / names.METRICS,
        )
    else:
        logger.warning(
            "stopped by %s at step %d of %d, saved; start the same command again to resume",
            signal,
            outcome.step,
            setup.config["steps"],
        )
