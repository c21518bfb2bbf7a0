"""Standard input as a source, and standard output as the place of the only result."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from ipt_jax.errors import UserError
from ipt_jax.images.write import FORMATS
from ipt_jax.restore.plan import Job

PIPE = "-"
TITLE = "standard input"


class Pipes:
    """Puts files of a temporary folder in the place of "-".

    A context manager: standard input is read when the context begins, and the folder is deleted
    when it ends.

    Args:
      inputs: files, folders and globs; "-" for standard input.
      out: the output file or folder; "-" for standard output, which is also the default where the
        only input is standard input.
      form: the format of the result, one of `FORMATS`; None for PNG.

    Attributes:
      inputs: the inputs without "-".
      out: the output without "-".

    Raises:
      UserError: standard input is closed, or standard output is a terminal.
    """

    def __init__(self, inputs: Sequence[str], out: str | None, form: str | None):
        self.inputs, self.out = list(inputs), out
        self._reads = PIPE in inputs
        self._writes = writes_to_pipe(inputs, out)
        self._form = form or "png"

    def __enter__(self) -> Pipes:
        if self._writes and (sys.stdout is None or sys.stdout.isatty()):
            raise UserError("the result would be written to the terminal; name a file with -o")
        if self._writes and len(self.inputs) > 1:
            raise UserError("-o - writes one result, but there are several inputs; name a folder")
        if self._reads and self.inputs.count(PIPE) > 1:
            raise UserError("standard input (-) is named twice")
        if not (self._reads or self._writes):
            return self
        self._folder = Path(tempfile.mkdtemp(prefix="ipt-pipe-"))
        self._source = self._folder / "stdin"
        try:
            if self._reads:
                self._read()
        except BaseException:
            shutil.rmtree(self._folder)
            raise
        if self._writes:
            self.out = str(self._folder / f"stdout{FORMATS[self._form]}")
        return self

    def _read(self) -> None:
        if sys.stdin is None:
            raise UserError("standard input is closed")
        with self._source.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        self.inputs[self.inputs.index(PIPE)] = str(self._source)

    def named(self, jobs: list[Job]) -> list[Job]:
        """Returns the jobs with titles in the place of temporary names."""
        if not (self._reads or self._writes):
            return jobs
        titles = [TITLE if job.source == self._source else job.source.name for job in jobs]
        return [
            dataclasses.replace(job, title=title)
            if self._writes or job.source == self._source
            else job
            for job, title in zip(jobs, titles, strict=True)
        ]

    def deliver(self, results: list[Path]) -> None:
        """Copies the result to standard output, if it belongs there."""
        if self._writes:
            for path in results:
                sys.stdout.buffer.write(path.read_bytes())
            sys.stdout.buffer.flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._reads or self._writes:
            shutil.rmtree(self._folder, ignore_errors=True)


def writes_to_pipe(inputs: Sequence[str], out: str | None) -> bool:
    """Returns whether the result goes to standard output."""
    return out == PIPE or (out is None and list(inputs) == [PIPE])
