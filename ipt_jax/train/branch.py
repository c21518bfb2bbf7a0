"""`branch_from=RUN@STEP`: a new run that begins with the whole state of another run's checkpoint.

A run with the "wsd" schedule has no fixed end. A branch of it decays the learning rate within some
steps and so gives weights to ship, while the run itself can be continued at its full rate.
"""

from __future__ import annotations

from typing import Any

from ipt_jax.checkpoints.checkpoints import Checkpoints
from ipt_jax.config import defaults, resolve
from ipt_jax.errors import ConfigError
from ipt_jax.log import logger
from ipt_jax.step.state import TrainState
from ipt_jax.train.identity import Run
from ipt_jax.weights.load import split_step


def state(path: str, run: Run, target: Any) -> tuple[TrainState, int]:
    """The state of `RUN@STEP` (without a step: of its newest intact checkpoint), and its step.

    The step goes on from there, and so do the learning rate's schedule and the place in the data.

    Args:
      path: the value of `branch_from`.
      run: the new run.
      target: shapes, dtypes and shardings of the state.

    Raises:
      ConfigError: there is no such run or checkpoint, or the new run differs from it in more than
        the schedule, `steps`, and what a resumed run may change; all differences are listed.
      CheckpointError: the checkpoint is damaged.
    """
    folder, step = split_step(path)
    if not (folder / "config.json").exists():
        raise ConfigError(
            f"branch_from={path!r}: {folder} is not the folder of a run (it holds no config.json)"
        )
    if step and not step.isdigit():
        raise ConfigError(
            f"branch_from={path!r}: {step!r} is not a step; name one, such as {folder}@1000"
        )
    with Checkpoints(folder / "checkpoints") as theirs:
        steps = theirs.steps()
        if not steps or (step and int(step) not in steps):
            there = ", ".join(map(str, steps)) or "no checkpoint"
            raise ConfigError(
                f"branch_from={path!r}: there is no such checkpoint; there is {there}"
            )
        meta = theirs.read_meta(int(step) if step else None)
        may_change = (*defaults.MAY_CHANGE, *defaults.BRANCH_MAY_CHANGE)
        differing = resolve.differences(meta["config"], run.config, may_change)
        data = meta["data"]
        differing += [
            f"the data's {k}: {data.get(k)} -> {run.data[k]}"
            for k in run.data
            if data.get(k) != run.data[k]
        ]
        if differing:
            raise ConfigError(
                f"branch_from={path!r}: a branch may change only the schedule, steps, and what a "
                "resumed run may change, but "
                "these differ:" + "".join(f"\n  {line}" for line in differing)
            )
        found, meta = theirs.restore(target, int(step) if step else None)
    logger.info("branching from %s at step %d", folder, meta["step"])
    return found, int(meta["step"])
