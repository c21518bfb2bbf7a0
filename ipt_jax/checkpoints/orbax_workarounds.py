"""Workarounds for Orbax: step names, retention policy, error translation, log filtering."""

from __future__ import annotations

import datetime
import gc
import glob
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
from ipt_jax.log import logger

T = TypeVar("T")


class Names:
    """Orbax's names for steps, found without reading metadata.

    With Orbax's own class, one damaged metadata file makes all checkpoints unusable.
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


def escape_own_path_in_glob() -> None:
    """Makes `epath.Path.glob` match the pattern only below the path itself.

    etils joins the path with the pattern, and `[`, `?` or `*` in a folder's name become part of the
    pattern. Orbax finds the files that it merges at the end of a save in this way: in a folder
    named `[1]` it finds none, and in one named `a*` it also finds those of a run beside it, `ab`.
    """
    owner: Any = next(kind for kind in type(epath.Path("/")).__mro__ if "glob" in vars(kind))
    if owner.glob.__module__ == __name__:
        return
    original = owner.glob

    def escaped(self: Any, pattern: str) -> Iterator[Any]:
        return original(type(self)(glob.escape(os.fspath(self))), pattern)

    owner.glob = escaped


escape_own_path_in_glob()


class Keep:
    """Orbax's retention policies, which neither delete nor count damaged checkpoints.

    The checkpoint of step 0 proves that the storage works. It counts as none of the kept ones, and
    is deleted once there is an intact one of a later step.

    Args:
      keep: how many of the newest checkpoints are kept.
      keep_every: checkpoints of steps that it divides are kept as well; 0 for none.
      damaged: the steps of damaged checkpoints; the caller changes this set.

    Attributes:
      protected: a step that is kept whatever its age, or None.
    """

    def __init__(self, keep: int, keep_every: int, damaged: set[int]) -> None:
        policies = ocp.training.preservation_policies
        rules: list[Any] = [policies.LatestN(keep)]
        if keep_every:
            rules.append(policies.EveryNSteps(keep_every))
        self._rule = policies.AnyPreservationPolicy(rules)
        self._damaged = damaged
        self.protected: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        # Orbax lists the new checkpoint last, so LatestN keeps it even if its step is not the
        # highest, as after restore(step=...).
        good = [c for c in checkpoints if c.step not in self._damaged]
        good = [c for c in good if c.step > 0] or good
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
    """Returns Orbax's settings: one item is JSON, and part of a tree can be restored."""
    settings = ocp.Context()
    registry = ocp.handlers.local_registry()
    # Otherwise Orbax takes the dict for a pytree of arrays.
    registry.add(ocp.handlers.JsonHandler, checkpointable_name=json_name)
    settings.checkpointables.registry = registry
    settings.pytree.loading.partial_load = True
    return settings


def attempt(action: Callable[[], T], json_name: str) -> tuple[T, None] | tuple[None, str]:
    """Calls Orbax: returns the result and None, or None and the reason for a failure.

    Every kind of error is caught: damaged files show as errors of TensorStore, zstd, json or Orbax
    itself, and so do errors of the file system. Callers raise an error of this package with the
    reason.
    """
    quieten()
    try:
        with context(json_name), jax.transfer_guard("allow"):
            return action(), None
    except Exception as error:
        logger.debug("orbax failed", exc_info=True)
        # Orbax wraps the cause in errors such as "incompatible handler".
        while error.__cause__ is not None:
            error = error.__cause__  # type: ignore[assignment]
        reason = re.split(
            r" \[tensorstore_spec|\. See full Tensor", f"{type(error).__name__}: {error}"
        )[0]
    with warnings.catch_warnings():
        # Coroutines that Orbax abandoned are collected here; otherwise Python warns of them later.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        gc.collect()
    return None, reason


def hang() -> bool:
    """Returns whether threads of Orbax would delay the end of the process.

    After a save that failed, some of them wait twenty minutes for an event that does not come.
    """
    return any(
        type(thread).__module__.startswith("orbax.")
        for thread in threading.enumerate()
        if not thread.daemon
    )


# Orbax's threads end after some minutes, so they do not count in a program that calls `main`.
register_hang_check(hang, in_programs_only=True)


def unreadable(state: epath.Path) -> str:
    """Returns the names of Orbax's metadata files that are not JSON, which its errors lack."""
    bad = []
    for path in [state / "_METADATA", *(state / "array_metadatas").glob("*")]:
        try:
            json.loads(path.read_text())
        except (OSError, ValueError):
            bad.append(str(path))
    return f" (unreadable: {', '.join(bad)})" if bad else ""


def quieten() -> None:
    """Keeps Orbax's own log lines and tracebacks off the terminal; errors are raised instead.

    `absl.logging.set_verbosity(absl.logging.INFO)` shows them again.
    """
    for chatty in (absl_logging.get_absl_logger(), logging.getLogger("asyncio")):
        if not_of_orbax not in chatty.filters:
            chatty.addFilter(not_of_orbax)
    if not isinstance(sys.unraisablehook, Quiet):
        # The hook stays, because reads that were in progress at an error end later, in threads.
        sys.unraisablehook = Quiet(sys.unraisablehook)


def not_of_orbax(line: logging.LogRecord) -> bool:
    """Returns whether a log record is shown: not if it comes from Orbax or TensorStore."""
    wanted = absl_logging.get_verbosity() >= absl_logging.INFO
    # asyncio reports what Orbax abandoned after an error. Its message contains Orbax's path or
    # "tensorstore", or it is about a future and names no place. Nothing else in a run uses asyncio.
    message = line.getMessage()
    dropped = line.name == "asyncio" and message.startswith("Future exception was never retrieved")
    return wanted or not (
        dropped
        or any(
            f"{os.sep}orbax{os.sep}" in s or "tensorstore" in s for s in (line.pathname, message)
        )
    )


class Quiet:
    """A `sys.unraisablehook` that drops what Orbax abandons after an error.

    Args:
      hook: called for everything else.
    """

    def __init__(self, hook: Callable[[Any], Any]) -> None:
        self._hook = hook

    def __call__(self, event: Any) -> None:
        code = getattr(event.object, "cr_code", None)
        dropped = f"{os.sep}orbax{os.sep}" in getattr(code, "co_filename", "")
        late = event.object is None and str(event.exc_value) == "Event loop is closed"
        if not (dropped or late):
            self._hook(event)
