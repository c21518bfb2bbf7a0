"""Checkpoints of a run: written in the background, checked when they are restored.

Only this package uses Orbax. A checkpoint is one folder, `<directory>/<step>`. Orbax writes it
under another name and renames it when it is complete (on `gs://`, it writes a marker). It contains:

- `state`: the arrays, as nested dicts named after the paths of the leaves (`params/body/...`,
  `opt_state/0/mu`);
- `meta`: the JSON record of `record.py`: the caller's `meta`, and name, dtype, shape and
  fingerprint of every array, under a checksum of its own.

Orbax does not check contents: of 40 single bits flipped in checkpoint data, 37 came back as wrong
numbers without an error. Therefore fingerprints are computed on the devices when the state is
saved, and compared when it is restored. A damaged checkpoint is reported in the log and left
untouched, and the next older one is tried.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Self, TypeVar

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from ipt_jax import storage, trees
from ipt_jax.checkpoints import leaves, orbax_workarounds
from ipt_jax.checkpoints.agreement import all_processes, from_first_process
from ipt_jax.checkpoints.fingerprints import fingerprints
from ipt_jax.checkpoints.record import (
    Damaged,
    check_arrays,
    check_wanted,
    make_record,
    meta_of,
    read_record,
)
from ipt_jax.errors import CheckpointError
from ipt_jax.log import logger, waiting_for

PyTree = Any

T = TypeVar("T")

# The two items of a checkpoint.
_STATE, _META = "state", "meta"


class Checkpoints:
    """The checkpoints in one folder.

    Nothing is written, not even the folder, before the first `save`, so a folder can be read
    without the permission to write to it. With several processes, all of them make the same calls
    in the same order. Do not call any method inside `jax.set_mesh`.

    Args:
      directory: the folder; a local path or one that etils opens, such as
        `gs://bucket/run/checkpoints`.
      keep: how many of the newest checkpoints are kept; older ones are deleted once a new one is
        complete.
      keep_every: checkpoints of steps that it divides are kept as well; 0 for none.
      asynchronous: whether `save` returns while files are still being written.

    Raises:
      ValueError: `keep` is less than 1 or `keep_every` is negative.
    """

    def __init__(
        self, directory: Any, *, keep: int = 3, keep_every: int = 0, asynchronous: bool = True
    ) -> None:
        if keep < 1 or keep_every < 0:
            raise ValueError(
                f"keep must be at least 1 and keep_every 0, not {keep} and {keep_every}"
            )
        self.directory = storage.absolute(directory)
        self._asynchronous = asynchronous
        self._damaged: set[int] = set()
        self._policy = orbax_workarounds.Keep(keep, keep_every, self._damaged)
        self._writer: Any = None
        self._pending: tuple[int, Any] | None = None

    def save(self, step: int, state: PyTree, meta: Mapping[str, Any]) -> None:
        """Saves a state as `step`, unless a checkpoint of that step exists already.

        It returns when the arrays may be donated. An error in the background is raised by the next
        `save`, `wait` or `close`. After a `save` that raises, the same save can be tried again. A
        step that `restore` found damaged is replaced.

        Args:
          step: the step, at least 0.
          state: a pytree of JAX arrays.
          meta: JSON to be saved with the state.

        Raises:
          CheckpointError: this save, or the one before it, failed (no space, no permission, ...);
            or a leaf is not a JAX array, or has a dtype or a name that cannot be stored.
          ValueError: `step` is negative.
          TypeError: `meta` is not JSON.
        """
        self.wait()
        step = int(step)
        if step < 0:
            raise ValueError(f"step must not be negative, but is {step}")
        arrays, _ = leaves.flatten(state)
        leaves.check_storable(arrays)
        replace = step in self._damaged
        if from_first_process(step in self.steps()) and not replace:
            logger.info("checkpoint %d is already in %s", step, self.directory)
            return
        record = make_record(step, meta, arrays, fingerprints(list(arrays.values())))
        # During the call, Orbax decides which checkpoints are kept, and must count the new one.
        self._damaged.discard(step)
        with waiting_for(f"the save of step {step} in {self.directory}"):
            response, reason = _attempt(
                lambda: self._open().save_checkpointables_async(
                    step,
                    {_STATE: leaves.stored(arrays), _META: record},
                    force=True,
                    overwrite=replace,
                )
            )
        if reason is not None:
            if replace:
                self._damaged.add(step)
            self._failed(step, reason)
        self._pending = (step, response)
        if not self._asynchronous:
            self.wait()

    def protect(self, step: int | None) -> None:
        """Keeps the checkpoint of this step, the best one, until another step is named."""
        self._policy.protected = step

    def steps(self) -> list[int]:
        """Returns the steps of the complete checkpoints, oldest first, without checking them."""
        return sorted(found.step for found in orbax_workarounds.Names().find_all(self.directory))

    def latest(self) -> int | None:
        """Returns the step of the newest complete checkpoint, without checking it, or None."""
        return max(self.steps(), default=None)

    def restore(self, target: PyTree, step: int | None = None) -> tuple[PyTree, dict[str, Any]]:
        """Restores the newest intact checkpoint, or exactly `step`.

        Args:
          target: the wanted state, as `jax.ShapeDtypeStruct`s (or arrays, whose values are not
            used). Each leaf is restored with the sharding given here, whatever it was saved with.
            Leaves without a sharding go to the first device, or, with several processes, to all
            devices alike.
          step: the only step to restore; None for the newest intact one.

        Returns:
          The state, and the `meta` saved with it, with `step` added.

        Raises:
          CheckpointError: there is no intact checkpoint (the message has the reason for each;
            nothing is deleted); or `target` is not what was saved: the message lists every leaf
            that differs, and no older checkpoint is tried.
        """
        named, treedef = leaves.flatten(target)
        wanted = {name: leaves.target(leaf) for name, leaf in named.items()}

        def load(step: int, record: dict[str, Any]) -> list[jax.Array]:
            check_wanted(wanted, record["leaves"], f"checkpoint {step} in {self.directory}")
            return self._load(step, record, wanted)

        found, meta = self._newest_intact(load, step)
        return jax.tree.unflatten(treedef, found), meta

    def restore_params(
        self, which: str | Sequence[str] = ("ema", "params"), step: int | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Restores one part of the state without knowing the rest of it.

        Args:
          which: the names of parts, by preference: the first one that was saved is restored.
          step: as for `restore`.

        Returns:
          The part as nested dicts of NumPy arrays, checked as in `restore`, and the `meta` saved
          with it, with `step` and `part` (the name of the part) added.

        Raises:
          CheckpointError: as for `restore`; or none of the parts was saved.
        """
        parts = (which,) if isinstance(which, str) else tuple(which)

        def load(step: int, record: dict[str, Any]) -> tuple[str, dict[str, Any]]:
            saved = record["leaves"]
            part = next((p for p in parts if any(n.startswith(p + "/") for n in saved)), None)
            if part is None:
                found = ", ".join(sorted({n.split("/")[0] for n in saved}))
                raise CheckpointError(
                    f"checkpoint {step} in {self.directory} has no {' or '.join(parts)}, only "
                    f"{found}"
                )
            wanted = {
                name: leaves.target(jax.ShapeDtypeStruct(shape, np.dtype(dtype)))
                for name, (dtype, shape, _) in saved.items()
                if name.startswith(part + "/")
            }
            arrays = zip(wanted, self._load(step, record, wanted), strict=True)
            return part, trees.nested({n.removeprefix(part + "/"): np.array(x) for n, x in arrays})

        (part, tree), meta = self._newest_intact(load, step)
        return tree, {**meta, "part": part}

    def read_meta(self, step: int | None = None) -> dict[str, Any]:
        """Returns the `meta` of a checkpoint, with `step` added.

        It reads one small file and starts no devices. The arrays are not checked, so `restore` may
        choose an older step.

        Args:
          step: the step; None for the newest checkpoint whose record is intact.

        Raises:
          CheckpointError: there is no such checkpoint, or its record is damaged.
        """
        reasons = {}
        for candidate in self._candidates(self.steps(), step):
            try:
                return meta_of(self._record(candidate))
            except Damaged as damage:
                reasons[candidate] = str(damage)
                self._report(candidate, str(damage))
        raise self._none_intact(reasons)

    def remove(self, step: int) -> None:
        """Deletes a checkpoint, if there is one and the storage permits it."""
        if jax.process_index() == 0:
            _attempt(lambda: (self.directory / str(step)).rmtree(missing_ok=True))
        self._damaged.discard(step)

    def wait(self) -> None:
        """Waits until the last save is on disk and superseded checkpoints are deleted.

        Raises:
          CheckpointError: that failed. Older checkpoints are intact, and `save` can be called
            again.
        """
        if self._pending is None:
            return
        (step, response), self._pending = self._pending, None
        with waiting_for(f"the save of step {step} in {self.directory}"):
            _, reason = _attempt(response.result)
        if reason is not None:
            self._failed(step, reason)

    def close(self) -> None:
        """Waits as `wait` does, and ends Orbax's threads. Raises CheckpointError as `wait` does."""
        try:
            self.wait()
        finally:
            writer, self._writer = self._writer, None
            _, reason = _attempt(writer.close) if writer is not None else (None, None)
            if reason is not None:
                raise CheckpointError(
                    f"the checkpoints in {self.directory} could not be closed: {reason}"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        try:
            self.close()
        except CheckpointError as failure:
            if error is None:
                raise
            # The error that ended the block matters more.
            logger.error("%s", failure)

    def _open(self) -> Any:
        """Returns Orbax's writer, made at the first call."""
        if self._writer is None:
            self._writer = ocp.training.Checkpointer(
                self.directory,
                context=orbax_workarounds.context(_META),
                preservation_policy=self._policy,
                # Killed and failed saves leave folders that would only take up space.
                cleanup_tmp_directories=True,
                step_name_format=orbax_workarounds.Names(),
            )
        return self._writer

    def _failed(self, step: int, reason: str) -> NoReturn:
        """Raises CheckpointError for a save that failed, with a new writer for the next one."""
        # The old writer has already forgotten the checkpoints that it was about to delete.
        writer, self._writer = self._writer, None
        if writer is not None:
            # Closing reports the same error again.
            _attempt(writer.close)
        if jax.process_count() == 1:
            # A new writer removes the files of the failed save, which may be what fills the disk.
            _attempt(self._open)
        if step in self.steps():
            message = (
                f"checkpoint {step} is in {self.directory}, but older ones could not be deleted: "
                f"{reason}"
            )
        else:
            message = f"checkpoint {step} could not be saved in {self.directory}: {reason}"
        raise CheckpointError(message)

    def _candidates(self, steps: list[int], step: int | None) -> list[int]:
        """Returns the steps to try, in order. Raises CheckpointError if there are none."""
        if step is None and steps:
            return steps[::-1]
        if step is None:
            raise CheckpointError(f"there is no checkpoint in {self.directory}")
        if step not in steps:
            found = ", ".join(map(str, steps)) or "none"
            raise CheckpointError(
                f"there is no checkpoint {step} in {self.directory}; there are: {found}"
            )
        return [step]

    def _newest_intact(
        self, load: Callable[[int, dict[str, Any]], T], step: int | None
    ) -> tuple[T, dict[str, Any]]:
        """Loads the newest checkpoint, or exactly `step`, for which `load` finds no damage.

        Args:
          load: returns what is wanted of a step and its record, or raises Damaged.
          step: the only step to try; None for all, newest first.

        Returns:
          What `load` returned, and the checkpoint's `meta`.
        """
        self.wait()
        reasons: dict[int, str] = {}
        for candidate in self._candidates(from_first_process(self.steps()), step):
            damage: str | None = None
            try:
                record = self._record(candidate)
                result = load(candidate, record)
            except Damaged as found:
                damage = str(found)
            if not all_processes(damage is None):
                damage = damage or "another process could not read it"
            if damage is None:
                self._damaged.discard(candidate)
                return result, meta_of(record)
            reasons[candidate] = damage
            self._damaged.add(candidate)
            self._report(candidate, damage)
        raise self._none_intact(reasons)

    def _report(self, step: int, damage: str) -> None:
        logger.error(
            "CHECKPOINT %d IN %s IS DAMAGED and is not used: %s", step, self.directory, damage
        )

    def _none_intact(self, reasons: Mapping[int, str]) -> CheckpointError:
        lines = "".join(f"\n  {step}: {reason}" for step, reason in reasons.items())
        return CheckpointError(
            f"no usable checkpoint in {self.directory}; nothing was changed there:{lines}"
        )

    def _record(self, step: int) -> dict[str, Any]:
        """Reads the record without Orbax, which would start the devices. Raises Damaged."""
        return read_record(self.directory / str(step) / _META / "data.json", step)

    def _load(
        self, step: int, record: dict[str, Any], wanted: Mapping[str, jax.ShapeDtypeStruct]
    ) -> list[jax.Array]:
        """Loads arrays by name and compares their fingerprints with the record. Raises Damaged."""
        folder = self.directory / str(step)

        def load() -> tuple[dict[str, jax.Array], list[str]]:
            loaded = ocp.load_checkpointables(folder, {_STATE: leaves.stored(wanted)})
            found, _ = leaves.flatten(loaded[_STATE])
            arrays = {n: found[n] if x.size else leaves.empty(x) for n, x in wanted.items()}
            return arrays, fingerprints(list(arrays.values()))

        with waiting_for(f"checkpoint {step} in {self.directory}"):
            result, reason = _attempt(load)
        if result is None:
            raise Damaged(f"{reason}{orbax_workarounds.unreadable(folder / _STATE)}")
        arrays, marks = result
        check_arrays(arrays, marks, record["leaves"])
        return list(arrays.values())


def _attempt(action: Callable[[], T]) -> tuple[T, None] | tuple[None, str]:
    return orbax_workarounds.attempt(action, _META)
