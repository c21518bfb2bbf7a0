"""A run's metrics at Weights & Biases (`log.wandb`).

Whatever fails there, the run goes on: one warning says so, and nothing more is sent.
"""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Mapping
from typing import Any

from etils import epath

from ipt_jax.log import logger
from ipt_jax.run_folder import folder as names
from ipt_jax.storage import is_remote, replace_text
from ipt_jax.trees import flatten

# Seconds that the end of a run waits for what is still to be sent.
LAST_WAIT = 60


class WandbRun:
    """A run at Weights & Biases. A run that resumes in the same folder continues under its id.

    The account and the mode are wandb's own: `wandb login`, `WANDB_API_KEY`, `WANDB_MODE=offline`.

    Args:
      workdir: the run's folder.
      project: the project.
      config: the run's config.
    """

    def __init__(self, workdir: epath.Path, project: str, config: Mapping[str, Any]):
        self._run: Any = None
        self._begin(workdir, project, config)

    def _begin(self, workdir: epath.Path, project: str, config: Mapping[str, Any]) -> None:
        try:
            import wandb

            self._run = wandb.init(
                project=project,
                id=_id(workdir),
                resume="allow",
                name=workdir.name,
                config=dict(flatten(config)),
                # None is the current folder, which wandb falls back to for its own files.
                dir=None if is_remote(workdir) else str(workdir),
                settings=wandb.Settings(console="off", init_timeout=60),
            )
            # A resumed run repeats steps, which wandb's own counter of steps would refuse.
            self._run.define_metric("step")
            self._run.define_metric("*", step_metric="step")
        except ImportError:
            self._give_up("the package is not installed: pip install 'ipt_jax[wandb]'")
        # It raises many kinds of errors, and none may end a run.
        except Exception as error:
            self._give_up(str(error) or type(error).__name__)

    def add(self, step: int, values: Mapping[str, float], picture: Any = None) -> None:
        """Adds the numbers of a step; or, if given, an image under the names in `values`.

        Args:
          step: the step.
          values: names and numbers.
          picture: uint8 `[H, W, 3]`.
        """
        if self._run is None:
            return
        try:
            sent: dict[str, Any] = dict(values)
            if picture is not None:
                import wandb

                sent = {name: wandb.Image(picture) for name in values}
            self._run.log({"step": step, **sent})
        except Exception as error:
            self._give_up(str(error) or type(error).__name__)

    def close(self) -> None:
        """Ends the run there; waits `LAST_WAIT` seconds at most for what is still to be sent."""
        run, self._run = self._run, None
        if run is None:
            return

        def finish() -> None:
            with contextlib.suppress(Exception):
                run.finish(exit_code=0)

        thread = threading.Thread(target=finish, daemon=True)
        thread.start()
        thread.join(LAST_WAIT)
        if thread.is_alive():
            logger.warning("Weights & Biases has not taken all metrics within %d s", LAST_WAIT)

    def _give_up(self, reason: str) -> None:
        """Warns, and sends nothing more."""
        self._run = None
        logger.warning(
            "log.wandb: nothing more is sent to Weights & Biases, the run goes on: %s", reason
        )


def _id(workdir: epath.Path) -> str:
    """Returns the run's id, which its folder keeps."""
    path = workdir / names.WANDB
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(path.read_text())["id"]
        if isinstance(found, str) and found.isalnum():
            return found
    made = uuid.uuid4().hex[:16]
    replace_text(path, json.dumps({"id": made}) + "\n")
    return made
