"""Runs ffmpeg and ffprobe, and finds the reason of a failure in their messages."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from ipt_jax.errors import VideoError

# What ffmpeg puts before a message: the part of the program that wrote it, and its address.
_PREFIX = re.compile(r"^(\[[^\]]* @ 0x[0-9a-f]+\]\s*)+")
# Messages that only repeat that something failed; the reason is in another line.
_WITHOUT_REASON = re.compile(
    r"^(Conversion failed!"
    r"|Could not write header"
    r"|Error initializing output stream"
    r"|Error (opening output file|opening output files|while filtering|sending frames)"
    r"|Nothing was written into output file"
    r"|Task finished with error code"
    r"|Terminating thread with return code)"
)
# Lines of a long list of messages that are shown from its beginning and from its end.
_SHOWN = 2


def program(name: str) -> str:
    """Returns the path of a program; raises VideoError if it is not installed."""
    found = shutil.which(name)
    if found is None:
        raise VideoError(
            f"videos need {name}, which is not installed (apt install ffmpeg, brew install ffmpeg)"
        )
    return found


def ffmpeg() -> list[str]:
    """Returns the beginning of each ffmpeg command; raises VideoError without ffmpeg."""
    return [program("ffmpeg"), "-hide_banner", "-v", "error", "-nostdin"]


def reason(messages: str) -> str:
    """Returns the messages of a failed program in one line, without those that give no reason.

    Of many messages, the first and the last are shown: the first usually name the cause, and after
    warnings about damaged data the cause comes last.
    """
    lines = [_PREFIX.sub("", line).strip() for line in messages.splitlines()]
    lines = list(dict.fromkeys(line for line in lines if line))
    lines = [line for line in lines if not _WITHOUT_REASON.match(line)] or lines
    if len(lines) > 2 * _SHOWN:
        left_out = f"({len(lines) - 2 * _SHOWN} more messages)"
        lines = [*lines[:_SHOWN], left_out, *lines[-_SHOWN:]]
    return "; ".join(lines) or "no reason given"


def output_of(command: Sequence[str], what: str, timeout: float | None = None) -> str:
    """Returns the standard output of a program; raises VideoError with its reason if it fails.

    Args:
      command: the program and its arguments.
      what: begins the message of the error.
      timeout: seconds after which the program is stopped, or None.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise VideoError(f"{what}: no answer after {timeout:g} s") from None
    if done.returncode:
        raise VideoError(f"{what}: {reason(done.stderr)}")
    return done.stdout


class Process:
    """A running program, and the file that collects its messages."""

    def __init__(self, process: subprocess.Popen[bytes], errors: Any):
        self.process, self._errors = process, errors

    def messages(self) -> str:
        """Returns what the program has written to its standard error so far."""
        self._errors.seek(0)
        return str(self._errors.read().decode(errors="replace"))

    def feed(self, data: bytes) -> None:
        """Writes to the program's standard input; raises VideoError if the program has failed."""
        try:
            self.process.stdin.write(data)  # type: ignore[union-attr]
        except BrokenPipeError:
            self.finish()
            raise VideoError("ffmpeg stopped before the last frame") from None

    def finish(self) -> None:
        """Waits for the end of the program; raises VideoError if it failed."""
        if self.process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        if self.process.wait(timeout=600):
            raise VideoError(f"ffmpeg: {reason(self.messages())}")


@contextlib.contextmanager
def started(command: list[str], **pipes: Any) -> Iterator[Process]:
    """Runs a program, and kills it at the end of the block if it is still running."""
    # Messages go to a file, because a pipe could fill up and block the program.
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stderr=errors, **pipes)
        try:
            yield Process(process, errors)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=60)
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
