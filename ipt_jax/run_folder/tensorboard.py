"""TensorBoard's events of a run, written at once by who adds them.

tensorboardX's own SummaryWriter hands them to a thread, which ends when a disk is full, and then
whoever adds events waits for ever. Here such an event is lost, and the next one begins another
file: TensorBoard reads all of a folder.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from typing import Any

_log = logging.getLogger("ipt_jax")


class Events:
    """The event files in one folder.

    Args:
      folder: local, or what tensorboardX can write to.
      start: the run's first step: what an earlier one said of later steps is not shown.
    """

    def __init__(self, folder: str, start: int):
        self._folder, self._start = folder, start
        self._file: Any = None
        self._files = 0
        self._failed = False

    def add(self, step: int, values: Mapping[str, float], picture: Any = None) -> None:
        """Numbers of a step, or with `picture`, uint8 `[H, W, 3]`, that under the names in
        `values`.
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
        # Gs:// takes another package. These are extras: no run ends for them
        except (OSError, ImportError) as error:
            if not self._failed:
                _log.error(
                    "TensorBoard's events of step %d are not in %s: %s", step, self._folder, error
                )
            self._failed = True
            self.close()

    def close(self) -> None:
        """Closes the file; `add` would begin another."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()

    def _open(self) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.record_writer import directory_check

        directory_check(self._folder)
        self._files += 1
        # The name that it gives has the time in seconds, and files of one name would be one.
        self._file = EventsWriter(
            f"{self._folder.rstrip('/')}/events", f".{self._files}" if self._files > 1 else ""
        )
        if self._start:
            self._write(self._start, session_log=SessionLog(status=SessionLog.START))

    def _write(self, step: int, **what: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._file.write_event(Event(step=step, wall_time=time.time(), **what))
