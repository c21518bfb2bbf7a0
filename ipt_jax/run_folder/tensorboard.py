"""TensorBoard events of a run, written synchronously.

tensorboardX's SummaryWriter writes in a thread. When the disk is full that thread ends, and the
next caller that adds an event waits forever. Here the event is lost, and the next one begins a new
file; TensorBoard reads all files of a folder.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from typing import Any

from ipt_jax.log import logger
from ipt_jax.trees import flatten


class Events:
    """The event files in one folder.

    Args:
      folder: a local folder, or one on a store that tensorboardX can write to.
      start: the first step of the run; TensorBoard then hides events of later steps that were
        written before.
      config: the run's config, which each file begins with: as text, and as hyperparameters of the
        one run that the folder is, however often it restarts; None for none.
    """

    def __init__(self, folder: str, start: int, config: Mapping[str, Any] | None = None):
        self._folder, self._start, self._config = folder, start, config
        self._file: Any = None
        self._files = 0
        self._failed = False

    def add(self, step: int, values: Mapping[str, float], picture: Any = None) -> None:
        """Adds the numbers of a step; or, if given, an image under the names in `values`.

        Args:
          step: the step.
          values: names and numbers.
          picture: uint8 `[H, W, 3]`.
        """
        from tensorboardX import summary

        try:
            if self._file is None:
                self._open()
            for name, value in values.items():
                what = (
                    summary.scalar(name, value)
                    if picture is None
                    else summary.image(name, picture, dataformats="HWC")
                )
                self._write(step, summary=what)
            self._file.flush()
            self._failed = False
        # Events are extras: neither a full disk nor a missing package for gs:// ends the run, and
        # clients of object stores raise errors of their own.
        except Exception as error:
            if not self._failed:
                logger.error(
                    "TensorBoard's events of step %d are not in %s: %s", step, self._folder, error
                )
            self._failed = True
            self.close()

    def close(self) -> None:
        """Closes the file; a later `add` begins another one."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(Exception):
                file.close()
                return
            # tensorboardX closes the file again when it is deleted, and would print the error.
            with contextlib.suppress(AttributeError):
                file._py_recordio_writer.close = lambda: None

    def _open(self) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.record_writer import directory_check

        directory_check(self._folder)
        self._files += 1
        # tensorboardX names files by the time in seconds, so two could get the same name.
        self._file = EventsWriter(
            f"{self._folder.rstrip('/')}/events", f".{self._files}" if self._files > 1 else ""
        )
        if self._start:
            self._write(self._start, session_log=SessionLog(status=SessionLog.START))
        if self._config is not None:
            self._describe(self._config)

    def _describe(self, config: Mapping[str, Any]) -> None:
        """Writes the config as text and as hyperparameters."""
        from tensorboardX import summary

        # Four spaces make it code in Markdown.
        lines = json.dumps(config, indent=2, default=str).splitlines()
        text = "\n".join(f"    {line}" for line in lines)
        self._write(self._start, summary=summary.text("config", text))
        values = {
            name: value if isinstance(value, (bool, int, float, str)) else str(value)
            for name, value in flatten(config).items()
        }
        tasks = [task if isinstance(task, str) else task["name"] for task in config["tasks"]]
        metrics = {"loss": 0, **{f"held_out/{task}/psnr_y": 0 for task in tasks}}
        # The third part says that the run succeeded, which is not known at its start.
        for part in summary.hparams(values, metrics)[:2]:
            self._write(self._start, summary=part)

    def _write(self, step: int, **what: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._file.write_event(Event(step=step, wall_time=time.time(), **what))
