"""What orbax needs to be told, asked twice, and kept quiet about. Only checkpoint.py uses this."""

from __future__ import annotations

import datetime
import gc
import json
import logging
import os
import re
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
from absl import logging as absl_logging
from etils import epath
from orbax.checkpoint import path as orbax_path
from orbax.checkpoint import v1 as ocp

from ipt_jax.errors import register_hang_check

T = TypeVar("T")

_log = logging.getLogger("ipt_jax")


class Names:
    """orbax's names for steps, without reading metadata: one damaged file would keep all others
    from use.
    """

    def __init__(self) -> None:
        self._format = orbax_path.step.standard_name_format()

    def build_name(self, step: int) -> str:
        return self._format.build_name(step)

    def find_all(self, base_path: Any) -> Iterator[Any]:
        return map(self._found, self._format.find_all(base_path))

    def find_step(self, base_path: Any, step: int) -> Any:
        return self._found(self._format.find_step(base_path, step))

    @staticmethod
    def _found(step: Any) -> Any:
        time = datetime.datetime.fromtimestamp(step.path.stat().mtime, datetime.UTC)
        return types.SimpleNamespace(step=step.step, path=step.path, commit_timestamp=time)


class Keep:
    """orbax's policies. Checkpoints known to be damaged are left alone and count for nothing."""

    def __init__(self, keep: int, keep_every: int, damaged: set[int]) -> None:
        policies = ocp.training.preservation_policies
        rules: list[Any] = [policies.LatestN(keep)]
        if keep_every:
            rules.append(policies.EveryNSteps(keep_every))
        self._rule = policies.AnyPreservationPolicy(rules)
        self._damaged = damaged
        self.protected: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        # orbax puts the new one last: it is kept even when its step is not the highest, after
        # restore(step=...).
        good = [c for c in checkpoints if c.step not in self._damaged]
        kept = {
            c.step
            for c, keep in zip(good, self._rule.should_preserve(good, context=context), strict=True)
            if keep
        }
        return [
            c.step in kept or c.step in self._damaged or c.step == self.protected
            for c in checkpoints
        ]


def context(json_name: str) -> Any:
    """orbax's settings: one item is JSON, and part of a tree can be restored."""
    settings = ocp.Context()
    registry = ocp.handlers.local_registry()
    # Else the dict is taken for a pytree
    registry.add(ocp.handlers.JsonHandler, checkpointable_name=json_name)
    settings.checkpointables.registry = registry
    settings.pytree.loading.partial_load = True
    return settings


def attempt(action: Callable[[], T], json_name: str) -> tuple[T, None] | tuple[None, str]:
    """Do something with orbax: what it returned and None, or None and the reason why it failed.

    Every kind of error is caught: damaged files show as errors of tensorstore, zstd, json or orbax
      itself, and
    a file system's refusal comes back in many guises too. Callers turn the reason into an error of
    ours.
    """
    quieten()
    try:
        with context(json_name), jax.transfer_guard("allow"):
            return action(), None
    except Exception as error:
        _log.debug("orbax failed", exc_info=True)
        # Orbax wraps what happened in "incompatible handler" and the like
        while error.__cause__ is not None:
            error = error.__cause__  # type: ignore[assignment]
        reason = re.split(
            r" \[tensorstore_spec|\. See full Tensor", f"{type(error).__name__}: {error}"
        )[0]
    with warnings.catch_warnings():
        # What orbax dropped half-way is collected here, or Python complains of it at some later
        # time.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        gc.collect()
    return None, reason


def hang() -> bool:
    """Whether orbax has left threads behind: after a save that failed, some wait twenty minutes for
    what will not come.
    """
    return any(
        type(thread).__module__.startswith("orbax.")
        for thread in threading.enumerate()
        if not thread.daemon
    )


# Orbax's threads end after some minutes, so they do not count in a program that calls `main`.
register_hang_check(hang, in_programs_only=True)

def unreadable(state: epath.Path) -> str:
    """Name orbax's metadata files that are no JSON: its own errors do not."""
    bad = []
    for path in [state / "_METADATA", *(state / "array_metadatas").glob("*")]:
        try:
            json.loads(path.read_text())
        except (OSError, ValueError):
            bad.append(str(path))
    return f" (unreadable: {', '.join(bad)})" if bad else ""


def quieten() -> None:
    """Keep orbax's own log lines and tracebacks off the terminal: errors are raised, with their
    reason.

    They come back with `absl.logging.set_verbosity(absl.logging.INFO)`.
    """
    for logger in (absl_logging.get_absl_logger(), logging.getLogger("asyncio")):
        if not_of_orbax not in logger.filters:
            logger.addFilter(not_of_orbax)
    if not isinstance(sys.unraisablehook, Quiet):
        # For good, because reads that were under way at an error end later, in threads.
        sys.unraisablehook = Quiet(sys.unraisablehook)


def not_of_orbax(line: logging.LogRecord) -> bool:
    wanted = absl_logging.get_verbosity() >= absl_logging.INFO
    # asyncio reports what orbax dropped after an error: the path or tensorstore is in its message,
    # or it is a future, whose message tells no place. Nothing else in a run has futures of
    # asyncio's.
    message = line.getMessage()
    dropped = line.name == "asyncio" and message.startswith("Future exception was never retrieved")
    return wanted or not (
        dropped
        or any(
            f"{os.sep}orbax{os.sep}" in s or "tensorstore" in s for s in (line.pathname, message)
        )
    )


class Quiet:
    """Passes on to another `sys.unraisablehook` all but what orbax leaves behind after an error."""

    def __init__(self, hook: Callable[[Any], Any]) -> None:
        self._hook = hook

    def __call__(self, event: Any) -> None:
        code = getattr(event.object, "cr_code", None)
        dropped = f"{os.sep}orbax{os.sep}" in getattr(code, "co_filename", "")
        late = event.object is None and str(event.exc_value) == "Event loop is closed"
        if not (dropped or late):
            self._hook(event)
