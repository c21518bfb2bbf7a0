"""The log of a run's metrics: `metrics.jsonl`, TensorBoard events, Weights & Biases."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from ipt_jax.log import logger, waiting_for
from ipt_jax.messages import listed
from ipt_jax.run_folder import folder as names
from ipt_jax.run_folder.tensorboard import Events
from ipt_jax.run_folder.weights_and_biases import WandbRun
from ipt_jax.storage import is_remote, replace_text

# The first part of the keys of an evaluation's line: "held_out/TASK/METRIC".
HELD_OUT = "held_out"


class MetricsLog:
    """Appends to `<workdir>/metrics.jsonl`, one JSON object per line, and to TensorBoard events.

    A resumed run first drops the lines that it will write again, so that no step appears twice.
    Object stores cannot append to a file: there each line is a file of its own,
    `metrics/<step>-<kind>.jsonl`.

    Args:
      workdir: the run's folder.
      start: the step that the run starts from; lines of later steps are dropped.
      finished: whether the run is complete, so that its last evaluation is repeated.
      tensorboard: whether to write TensorBoard events as well.
      active: whether this process writes; only process 0 of a run does.
      config: the run's config for TensorBoard and Weights & Biases; None for neither.
    """

    def __init__(
        self,
        workdir: epath.Path,
        start: int,
        finished: bool,
        tensorboard: bool,
        active: bool,
        config: Mapping[str, Any] | None = None,
    ):
        self._active, self._workdir = active, workdir
        self._remote = is_remote(workdir)
        self._path = workdir / (names.METRICS_PARTS if self._remote else names.METRICS)
        self._events: Events | None = None
        self._wandb: WandbRun | None = None
        if not active:
            return
        self._cut(start, finished)
        if tensorboard:
            self._events = Events(str(workdir / names.TENSORBOARD), start, config)
        if config is not None and config["log"]["wandb"]:
            self._wandb = WandbRun(workdir, config["log"]["wandb"], config)

    def _cut(self, start: int, finished: bool) -> None:
        """Drops what will be logged again: later steps, and a finished run's last evaluation."""

        def again(step: int, evaluation: bool) -> bool:
            return step > start or (finished and step == start and evaluation)

        if self._remote:
            self._path.mkdir(parents=True, exist_ok=True)
            for part in self._path.glob("*.jsonl"):
                step, _, kind = part.stem.partition("-")
                if step.isdecimal() and again(int(step), kind != "train"):
                    part.unlink()
        elif self._path.exists():
            kept = [
                line
                for line in read_lines(self._path)
                if not again(line["step"], "loss" not in line)
            ]
            replace_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, step: int, values: Mapping[str, float], kind: str = "train") -> None:
        """Writes the line `{"step": step, **values}`; values that are not finite become null.

        A write that fails is logged as an error: a full disk must not end a run whose state in
        memory is intact.
        """
        if not self._active:
            return
        clean = {k: (float(v) if math.isfinite(v) else None) for k, v in values.items()}
        line = json.dumps({"step": step, **clean}) + "\n"
        try:
            if self._remote:
                with waiting_for(f"the metrics of step {step} in {self._path}"):
                    (self._path / f"{step:09d}-{kind}.jsonl").write_text(line)
            else:
                self._append(line.encode())
        # Clients of object stores raise errors of their own beside OSError.
        except Exception as error:
            logger.error("the metrics of step %d are not in %s: %s", step, self._path, error)
        if self._events is not None:
            self._events.add(step, values)
        if self._wandb is not None:
            self._wandb.add(step, values)

    def _append(self, line: bytes) -> None:
        with open(self._path, "ab", buffering=0) as file:
            begin = file.tell()
            # A disk that is nearly full takes only the beginning of the line.
            if file.write(line) < len(line):
                file.truncate(begin)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def picture(self, step: int, name: str, image: Any) -> None:
        """Adds an image, uint8 `[H, W, 3]`, to TensorBoard and Weights & Biases."""
        if self._events is not None:
            self._events.add(step, {name: 0}, image)
        if self._wandb is not None:
            self._wandb.add(step, {name: 0}, image)

    def lines(self) -> list[dict[str, Any]]:
        """Returns all lines so far, in order."""
        return read_run_lines(self._workdir)

    def close(self) -> None:
        """Closes TensorBoard's file, and the run at Weights & Biases."""
        if self._events is not None:
            self._events.close()
        if self._wandb is not None:
            self._wandb.close()


def read_run_lines(folder: epath.Path) -> list[dict[str, Any]]:
    """Returns all lines of the metrics log in a run's folder, in order; none without a log."""
    path = folder / (names.METRICS_PARTS if is_remote(folder) else names.METRICS)
    if not path.exists():
        return []
    return read_lines(*sorted(path.glob("*.jsonl")) if is_remote(folder) else (path,))


def read_lines(*paths: epath.Path) -> list[dict[str, Any]]:
    """Returns the lines of metrics files, in order.

    A last line that a kill cut short is skipped. Damaged lines are skipped as well, and counted in
    one warning.
    """
    found, damaged = [], []
    for path in paths:
        lines = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            values = _parse(line)
            if values is not None:
                found.append(values)
            elif line and number < len(lines):
                damaged.append(f"{path}:{number}")
    if damaged:
        logger.warning("%d damaged lines of metrics are skipped: %s", len(damaged), listed(damaged))
    return found


def _parse(line: bytes) -> dict[str, Any] | None:
    """Returns a line's values; None if it is not an object with a step and finite numbers."""
    try:
        values = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or not all(map(_is_number_or_null, values.values())):
        return None
    step = values.get("step")
    return values if type(step) is int and step >= 0 else None


def _is_number_or_null(value: Any) -> bool:
    if value is None or type(value) is int:
        # A larger integer is not a float, as everything is that was measured.
        return value is None or abs(value) < 2**63
    return type(value) is float and math.isfinite(value)
