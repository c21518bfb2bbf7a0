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

    A trace that cannot be begun or written is logged as an error, and the run goes on.

    Args:
      steps: the key's value, "FIRST:LAST" or "".
      workdir: the run's folder.
      start: the step from which the run starts.
    """

    def __init__(self, steps: str, workdir: epath.Path, start: int = 0):
        self._steps = profiled_steps(steps)
        self._to = workdir / names.PROFILES
        self._local: tempfile.TemporaryDirectory[str] | None = None
        # The first and the last step of the trace so far.
        self._first = self._last = 0
        if self._steps and start >= self._steps[-1]:
            logger.warning(
                "log.profile=%s: nothing is traced, because the run goes on from step %d",
                steps,
                start,
            )

    def annotated(self, step: int) -> jax.profiler.StepTraceAnnotation:
        """Returns a context that marks a step in the trace, which begins here if it is due."""
        if self._local is None and step in self._steps:
            self._begin(step)
        self._last = step
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def _begin(self, step: int) -> None:
        local = tempfile.TemporaryDirectory(prefix="ipt-profile-")
        with log.extra(self._to):
            jax.profiler.start_trace(local.name)
            self._local, self._first = local, step
        if self._local is None:
            # The error was logged; it would be the same at each step.
            local.cleanup()
            self._steps = range(0)

    def step_dispatched(self, step: int, metrics: Any) -> None:
        """Ends the trace after its last step, whose metrics it waits for."""
        if self._local is not None and step + 1 not in self._steps:
            jax.block_until_ready(metrics)
            self._end()

    def close(self) -> None:
        """Ends the trace of a run that ends before the last traced step."""
        if self._local is not None:
            self._end()

    def _end(self) -> None:
        local, self._local = self._local, None
        assert local is not None
        to = self._to / f"steps-{self._first}-{self._last}"
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
                self._last,
                to,
                self._to.parent.parent,
            )
