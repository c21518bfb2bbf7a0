"""The log of metrics in the folder of a run."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from ipt_jax.run_folder.tensorboard import Events

logger = logging.getLogger("ipt_jax")


class MetricsLog:
    """Appends to `<workdir>/metrics.jsonl`, one JSON object a line, flushed; and to TensorBoard
    events.

    A resumed run drops what an earlier one logged at or after the step it starts from, so that no
    step stands twice.
    Object stores cannot append: there each line becomes a part, `metrics/<step>-<kind>.jsonl`.
    """

    def __init__(
        self, workdir: epath.Path, start: int, finished: bool, tensorboard: bool, active: bool
    ):
        self._active = active
        self._remote = "://" in str(workdir)
        self._path = workdir / ("metrics" if self._remote else "metrics.jsonl")
        self._events: Events | None = None
        if not active:
            return
        self._cut(start, finished)
        if tensorboard:
            self._events = Events(str(workdir / "tensorboard"), start)

    def _cut(self, start: int, finished: bool) -> None:
        """Drops what will be logged again: later steps, and a finished run's last evaluation."""

        def again(step: int, evaluation: bool) -> bool:
            return step > start or (finished and step == start and evaluation)

        if self._remote:
            self._path.mkdir(parents=True, exist_ok=True)
            for part in self._path.glob("*.jsonl"):
                step, kind = part.stem.split("-")
                if again(int(step), kind != "train"):
                    part.unlink()
        elif self._path.exists():
            kept = [
                line
                for line in read_lines(self._path)
                if not again(line["step"], "loss" not in line)
            ]
            fresh = self._path.parent / "metrics.jsonl.new"
            fresh.write_text("".join(json.dumps(line) + "\n" for line in kept))
            fresh.replace(self._path)

    def write(self, step: int, values: Mapping[str, float], kind: str = "train") -> None:
        """One line: `{"step": step, **values}`; values that are not finite become null."""
        if not self._active:
            return
        clean = {k: (float(v) if math.isfinite(v) else None) for k, v in values.items()}
        line = json.dumps({"step": step, **clean}) + "\n"
        try:
            if self._remote:
                (self._path / f"{step:09d}-{kind}.jsonl").write_text(line)
            else:
                self._append(line.encode())
        # A full disk must not end a run whose state is whole in memory
        except OSError as error:
            logger.error("step %d is not in %s: %s", step, self._path, error)
        if self._events is not None:
            self._events.add(step, values)

    def _append(self, line: bytes) -> None:
        with open(self._path, "ab", buffering=0) as file:
            begin = file.tell()
            # A disk that is nearly full takes what there is room for
            if file.write(line) < len(line):
                file.truncate(begin)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def picture(self, step: int, name: str, image: Any) -> None:
        """A uint8 `[H, W, 3]` picture for TensorBoard."""
        if self._events is not None:
            self._events.add(step, {name: 0}, image)

    def lines(self) -> list[dict[str, Any]]:
        """All lines so far, in order."""
        if not self._path.exists():
            return []
        if not self._remote:
            return read_lines(self._path)
        return [line for part in sorted(self._path.glob("*.jsonl")) for line in read_lines(part)]

    def close(self) -> None:
        if self._events is not None:
            self._events.close()


def read_lines(path: epath.Path) -> list[dict[str, Any]]:
    """The objects of a metrics file; a torn last line, left by a kill, is dropped."""
    lines = path.read_text().split("\n")
    whole = []
    for number, line in enumerate(lines):
        try:
            whole.append(json.loads(line))
        except json.JSONDecodeError:
            if line and number < len(lines) - 2:
                logger.warning("%s: line %d is not JSON, dropped", path, number + 1)
    return whole
