"""`branch_from=RUN@STEP`: a new run that starts with the state of another run's checkpoint.

The new run takes the complete state: parameters, moments, EMA, counters and step.

A run with the "wsd" schedule has no fixed end. A branch of it lets the learning rate decay within a
few steps and so gives weights to ship, while the run itself can be resumed at its full rate.
"""

from __future__ import annotations

from typing import Any

from etils import epath

from ipt_jax.checkpoints.checkpoints import Checkpoints
from ipt_jax.config import defaults, resolve
from ipt_jax.errors import ConfigError
from ipt_jax.log import logger
from ipt_jax.run_folder.folder import CHECKPOINTS, CONFIG
from ipt_jax.step.state import TrainState
from ipt_jax.train.identity import Run, data_differences
from ipt_jax.weights.load import split_step


def branch_state(path: str, run: Run, target: Any) -> tuple[TrainState, int]:
    """Returns the state of `RUN@STEP`, and its step.

    Without a step, it is the newest intact checkpoint of the run. The new run continues with the
    following step, and so do the schedule of the learning rate and the position in the data.

    Args:
      path: the value of `branch_from`.
      run: the new run.
      target: shapes, dtypes and shardings of the state.

    Raises:
      ConfigError: there is no such run or checkpoint, or the new run differs from it in more than
        the schedule, `steps`, and what a resumed run may change (the message lists all
        differences).
      CheckpointError: the checkpoint is damaged.
    """
    folder, step = _split(path)
    with Checkpoints(folder / CHECKPOINTS) as checkpoints:
        steps = checkpoints.steps()
        if not steps or (step is not None and step not in steps):
            found = ", ".join(map(str, steps)) or "no checkpoint"
            raise ConfigError(
                f"branch_from={path!r}: there is no such checkpoint; there is {found}"
            )
        meta = checkpoints.read_meta(step)
        may_change = (*defaults.MAY_CHANGE, *defaults.BRANCH_MAY_CHANGE)
        differing = resolve.differences(meta["config"], run.config, may_change)
        differing += data_differences(meta["data"], run.data)
        if differing:
            raise ConfigError(
                f"branch_from={path!r}: a branch may change only the schedule, steps, and what a "
                "resumed run may change, but these differ:"
                + "".join(f"\n  {line}" for line in differing)
            )
        state, meta = checkpoints.restore(target, step)
    logger.info("branching from %s at step %d", folder, meta["step"])
    return state, int(meta["step"])


def _split(path: str) -> tuple[epath.Path, int | None]:
    """Returns the folder and the step of `RUN@STEP`. Raises ConfigError if it is not of a run."""
    folder, step = split_step(path)
    if not (folder / CONFIG).exists():
        raise ConfigError(
            f"branch_from={path!r}: {folder} is not the folder of a run (it holds no {CONFIG})"
        )
    if step and not step.isdigit():
        raise ConfigError(
            f"branch_from={path!r}: {step!r} is not a step; name one, such as {folder}@1000"
        )
    return folder, int(step) if step else None
