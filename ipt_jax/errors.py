"""Exceptions and exit codes, and what decides whether a process can end in the normal way.

A command that raises `UserError` prints one line and exits with code 2; `RunError` exits with code
1.
"""

from __future__ import annotations

from collections.abc import Callable


class UserError(ValueError):
    """Invalid usage or input. Exit code 2."""


class RunError(RuntimeError):
    """A failure while running. Exit code 1. Saved checkpoints are intact; a run can be resumed."""


class UsageError(UserError):
    """A name that does not exist, or options that cannot be combined."""


class ConfigError(UserError):
    """An invalid config. The message names the key and the values that it may have."""


class DataError(UserError):
    """Data that is missing or unusable."""


class DecodeError(DataError):
    """Bytes that are not a complete, readable image."""


class NotRegular(OSError):
    """A file that is not opened, because it is a pipe, a device or the like, or is too large."""


class WorkerError(DataError):
    """A data worker process died. The message has its exit code."""


class Stalled(DataError):
    """No batch arrived for a long time. The thread that waits for it may never end."""


class WeightsError(UserError):
    """Weights that are missing or do not fit. The message lists every tensor that is wrong."""


class DownloadError(RunError):
    """A download or upload failed by the network or the server. Repeating it may help."""


class Locked(UserError):
    """The folder is in use by another run that is alive. The message names that run."""


class StartError(UserError):
    """Settings of several processes that cannot work. The message names the flag."""


class CheckpointError(RunError):
    """A checkpoint could not be saved or restored, or does not match. The message says which."""


class LockLost(RunError):
    """The lock on a run's folder was lost while the run trained. The run stops without saving."""


class ExportError(RunError):
    """An exported file does not compute what the model computes. The file has been deleted."""


class VideoError(RunError):
    """ffmpeg is missing or failed, or it cannot keep a video's colours or times."""


class Lost(RunError):
    """Another process of the run is missing, has ended or has reported an error."""


_hang_checks: list[tuple[Callable[[], bool], bool]] = []


def register_hang_check(hangs: Callable[[], bool], *, in_programs_only: bool = False) -> None:
    """Registers a check for threads that would keep this process from ending.

    The command line calls the checks after a command, and ends the process by `os._exit` if one
    of them is true. Modules that start threads register their check when they are imported.

    Args:
      hangs: returns whether there is a thread that may never end.
      in_programs_only: the check does not count where a Python program called `main(arguments)`,
        because `os._exit` would end that program too.
    """
    _hang_checks.append((hangs, in_programs_only))


def threads_hang(*, program: bool) -> bool:
    """Returns whether a registered check finds threads that would keep this process from ending.

    Args:
      program: whether this process is the `ipt` program itself.
    """
    return any(hangs() for hangs, only in _hang_checks if program or not only)
