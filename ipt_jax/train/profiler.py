"""Traces of a few steps, for TensorBoard's profile plug-in or xprof."""

from __future__ import annotations

import pathlib
import tempfile
from typing import Any

import jax
from etils import epath

from ipt_jax import log
from ipt_jax.config.checks import profiled_steps
from ipt_jax.log import logger
from ipt_jax.run_folder import folder as names


class Profiler:
    """Traces the steps that `log.profile` names.

    The trace is written to a local folder and then copied, because the profiler cannot write to
    every storage: `<workdir>/tensorboard/plugins/profile/steps-FIRST-LAST/`, where the plug-in
    looks for it. Each process writes a file of its own.

    Args:
      steps: the key's value, "FIRST:LAST" or "".
      workdir: the run's folder.
    """

    def __init__(self, steps: str, workdir: epath.Path):
        self._steps = profiled_steps(steps)
        self._to = workdir / names.PROFILES
        self._local: tempfile.TemporaryDirectory[str] | None = None
        self._first = 0

    def annotated(self, step: int) -> jax.profiler.StepTraceAnnotation:
        """Returns a context that marks a step in the trace, which begins here if it is due."""
        if self._local is None and step in self._steps:
            self._local = tempfile.TemporaryDirectory(prefix="ipt-profile-")
            self._first = step
            jax.profiler.start_trace(self._local.name)
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def step_dispatched(self, step: int, metrics: Any) -> None:
        """Ends the trace after its last step, whose metrics it waits for."""
        if self._local is not None and step + 1 not in self._steps:
            jax.block_until_ready(metrics)
            self._end(step)

    def close(self) -> None:
        """Ends the trace of a run that ends before the last traced step."""
        if self._local is not None:
            self._end(self._steps[-1])

    def _end(self, last: int) -> None:
        local, self._local = self._local, None
        assert local is not None
        to = self._to / f"steps-{self._first}-{last}"
        with local, log.extra(to):
            jax.profiler.stop_trace()
            to.mkdir(parents=True, exist_ok=True)
            for file in sorted(pathlib.Path(local.name).rglob("*.xplane.pb")):
                # Processes of one host would give their files the same name.
                name = f"{file.name.removesuffix('.xplane.pb')}-{jax.process_index()}.xplane.pb"
                (to / name).write_bytes(file.read_bytes())
            logger.info(
                "the trace of steps %d to %d is in %s: tensorboard --logdir %s (with "
                "tensorboard-plugin-profile)",
                self._first,
                last,
                to,
                self._to.parent.parent,
            )
