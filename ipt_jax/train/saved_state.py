"""The state that a run starts from, and the saving of later states."""

from __future__ import annotations

import time

import jax

from ipt_jax.checkpoints.agreement import from_first_process
from ipt_jax.checkpoints.checkpoints import Checkpoints
from ipt_jax.distributed import sharding
from ipt_jax.distributed.process_group import ProcessGroup
from ipt_jax.errors import CheckpointError
from ipt_jax.log import logger
from ipt_jax.model import IPT
from ipt_jax.run_folder.lock import Lock
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
      ConfigError: the newest intact checkpoint is another run's, or `branch_from` cannot be used.
      ConfigError, WeightsError: `init_from` cannot be used.
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
        run.check_same_run(
            meta,
            f"checkpoint {meta['step']} in {checkpoints.directory}",
            "delete or move it if it came here from another run",
        )
        return state, int(meta["step"])
    if config["init_from"]:
        params = init_from.start_params(config["init_from"], model, config)
    else:
        params = model.init_params(config["seed"])
    fresh = jax.jit(lambda params: init_state(params, config), out_shardings=shardings)
    return fresh(params), 0


class StateSaver:
    """Saves the states of a run in the background, while the run holds its lock.

    A save that fails is logged as an error, and the run continues: the older checkpoints are
    intact. `checkpoint.max_failed` failures in a row end the run.

    Args:
      checkpoints: the run's checkpoints.
      run: the run, whose identity is saved with each state.
      lock: the lock on the run's folder.
    """

    def __init__(self, checkpoints: Checkpoints, run: Run, lock: Lock) -> None:
        self._checkpoints, self._run, self._lock = checkpoints, run, lock
        self._settings = run.config["checkpoint"]
        self._failures = 0
        # The step that is being written in the background.
        self._pending: int | None = None

    def prove_storage(self, step: int, state: TrainState) -> TrainState:
        """Saves the first state of a run, removes it from memory, and restores it.

        So a run whose storage does not work ends before it trains. A run that was resumed has just
        restored its state, which is returned without a change.

        Args:
          step: the step of the state.
          state: the state; its arrays are deleted.

        Returns:
          The restored state, on the same devices.

        Raises:
          CheckpointError: the state could not be saved, or what was restored is not what was saved.
          LockLost: another run has taken the folder, or it was deleted.
        """
        if from_first_process(step in self._checkpoints.steps()):
            return state
        self._lock.check()
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
        )
        begun = time.monotonic()
        try:
            self._checkpoints.save(step, state, self._run.meta())
            self._checkpoints.wait()
            jax.tree.map(lambda x: x.delete(), state)
            restored, _ = self._checkpoints.restore(target, step)
        except CheckpointError as error:
            # A checkpoint that cannot be restored must not keep the same command from starting.
            self._checkpoints.remove(step)
            raise CheckpointError(
                f"{error}\nThe run has not started, because its first state could not be saved and "
                f"restored in {self._run.folder}; start the same command again when the storage "
                "works, or name another folder"
            ) from None
        size = sum(x.nbytes for x in jax.tree.leaves(restored))
        logger.info(
            "the storage works: the first state, %.1f MB, was saved, restored and compared in "
            "%.1f s",
            size / 1e6,
            time.monotonic() - begun,
        )
        return restored

    def save(self, step: int, state: TrainState) -> None:
        """Begins to save a state.

        Args:
          step: the number of steps that are done: the state is the one before batch `step` is
            taken.
          state: the state.

        Raises:
          CheckpointError: this is failure number `checkpoint.max_failed` in a row.
          LockLost: another run has taken the folder, or it was deleted; nothing was saved.
        """
        self._lock.check()
        # If the save before this one failed, this one takes its place.
        self._end_pending()
        try:
            self._checkpoints.save(step, state, self._run.meta())
            self._pending = step
        except CheckpointError as error:
            self._failed(
                step, error, f"the run continues and saves again in {self._settings['every']} steps"
            )

    def save_last(self, step: int, state: TrainState) -> None:
        """Saves the last state of the run, and waits until it is complete.

        Raises:
          CheckpointError: the save failed.
          LockLost: another run has taken the folder, or it was deleted.
        """
        self._lock.check()
        self._end_pending(last=True)
        self._checkpoints.save(step, state, self._run.meta())
        self._checkpoints.wait()
        # What was saved in a folder that was deleted meanwhile cannot be resumed.
        self._lock.check()

    def _end_pending(self, last: bool = False) -> None:
        """Waits for the save in the background, and counts failures in a row."""
        step, self._pending = self._pending, None
        try:
            self._checkpoints.wait()
            if step is not None:
                self._failures = 0
        except CheckpointError as error:
            self._failed(step, error, "the run continues", last)

    def _failed(
        self, step: int | None, error: CheckpointError, then: str, last: bool = False
    ) -> None:
        if step is not None and step in self._checkpoints.steps():
            # The checkpoint is intact; only older ones could not be deleted.
            self._failures = 0
        else:
            self._failures += 1
        limit = self._settings["max_failed"]
        # The save that follows a last one tells whether the run can be resumed from its end.
        if self._failures >= limit and not last:
            newest = self._checkpoints.latest()
            raise CheckpointError(
                f"{error}\n{self._failures} saves in a row failed (checkpoint.max_failed={limit}), "
                f"so the run stops; the newest checkpoint is {newest}. Start the same command "
                "again when the storage works"
            ) from None
        logger.error("%s; %s", error, then)
