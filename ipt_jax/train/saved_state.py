"""The state that a run starts from, and the saving of later states."""

from __future__ import annotations

import jax

from ipt_jax.checkpoints.checkpoints import Checkpoints
from ipt_jax.distributed import sharding
from ipt_jax.distributed.process_group import ProcessGroup
from ipt_jax.errors import CheckpointError
from ipt_jax.log import logger
from ipt_jax.model import IPT
from ipt_jax.step.state import TrainState, abstract_state, init_state, state_shardings
from ipt_jax.train import branch, init_from
from ipt_jax.train.identity import Run


def first_state(
    run: Run,
    model: IPT,
    mesh: jax.sharding.Mesh,
    group: ProcessGroup,
    checkpoints: Checkpoints,
) -> tuple[TrainState, int]:
    """Returns the state to start from, sharded as the step needs it, and its step.

    The sources are tried in this order: 1 this run's own newest intact checkpoint, 2 `branch_from`,
    3 `init_from`, 4 from scratch.

    Args:
      run: the run.
      model: the network.
      mesh: the devices.
      group: the processes of the run.
      checkpoints: the run's own checkpoints.

    Raises:
      CheckpointError: there are checkpoints, but none is intact.
      ConfigError, WeightsError: `branch_from` or `init_from` cannot be used.
    """
    config = run.config
    shardings = state_shardings(model, config, mesh)
    # Process 0 decides, because other hosts may see an older state of a shared folder.
    resumes = group.gather("newest checkpoint", checkpoints.latest())[0] is not None
    if resumes or config["branch_from"]:
        target = sharding.abstract(abstract_state(model, config), shardings)
        if not resumes:
            return branch.branch_state(config["branch_from"], run, target)
        state, meta = checkpoints.restore(target)
        return state, int(meta["step"])
    if config["init_from"]:
        params = init_from.start_params(config["init_from"], model, config)
    else:
        params = model.init_params(config["seed"])
    fresh = jax.jit(lambda params: init_state(params, config), out_shardings=shardings)
    return fresh(params), 0


def save_state(
    checkpoints: Checkpoints, step: int, state: TrainState, run: Run, last: bool = False
) -> None:
    """Saves a state in the background.

    A failure is logged as an error and the run continues: the older checkpoints are intact.

    Args:
      checkpoints: the run's checkpoints.
      step: the number of steps that are done: the state is the one before batch `step` is taken.
      state: the state.
      run: the run, whose identity is saved with the state.
      last: whether this is the last save of the run, whose failure is an error.

    Raises:
      CheckpointError: the last save failed.
    """
    try:
        checkpoints.wait()
    except CheckpointError as error:
        # The save before this one failed; this one takes its place.
        logger.error("%s; the run continues", error)
    try:
        checkpoints.save(step, state, run.meta())
    except CheckpointError as error:
        if last:
            raise
        logger.error(
            "%s; the run continues and saves again in %d steps",
            error,
            run.config["checkpoint"]["every"],
        )
