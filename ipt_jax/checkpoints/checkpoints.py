"""Checkpoints of a run: written in the background, and believed only when checked.

This (with orbax_calls.py) is all that knows orbax. A checkpoint is one folder,
`<directory>/<step>`, that orbax writes under another name and renames when it is whole (on `gs://`,
marks):

- `state`: the arrays, as nested dicts named after the leaves' paths (`params/body/...`,
  `opt_state/0/mu`);
- `meta`: a JSON record with the caller's `meta`, and name, dtype, shape and fingerprint of every
  array, under a checksum of its own.

orbax does not check contents: of 40 single bits flipped in checkpoint data, 37 came back as wrong
numbers without a word. So fingerprints are taken on the devices when the state is saved, and
compared when it is restored. What does not match is named in the log and left as it is, and the
next older checkpoint is tried.
"""

from __future__ import annotations

import hashlib
import json
import logging
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Self, TypeVar

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from orbax.checkpoint import v1 as ocp

from ipt_jax.checkpoints import orbax_workarounds as orbax_calls
from ipt_jax.checkpoints.fingerprints import fingerprints, supported
from ipt_jax.errors import CheckpointError

PyTree = Any

T = TypeVar("T")

_log = logging.getLogger("ipt_jax")

_STATE, _META, _FORMAT = "state", "meta", 1


class _Damaged(Exception):
    """A checkpoint that is there but cannot be believed."""


class Checkpoints:
    """The checkpoints in one folder.

    Nothing is written, not even the folder, before the first `save`; readers can use a folder that
    they may not write to. With several processes, all of them make the same calls in the same
    order. Call none of this inside `jax.set_mesh`.

    Args:
        directory: where they are; may be a path that etils knows, such as
          `gs://bucket/run/checkpoints`.
        keep: how many of the newest are kept; older ones are deleted once a new one is complete.
        keep_every: steps divisible by it are kept as well; 0 for none.
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
        self.directory = epath.Path(directory).expanduser().resolve()
        self._asynchronous = asynchronous
        self._damaged: set[int] = set()
        self._policy = orbax_calls.Keep(keep, keep_every, self._damaged)
        self._writer: Any = None
        self._pending: tuple[int, Any] | None = None

    def save(self, step: int, state: PyTree, meta: Mapping[str, Any]) -> None:
        """Save `state`, a pytree of jax arrays, as `step`, unless that step is there already.

        Returns when the arrays may be donated. What goes wrong afterwards is raised by the next
        `save`, `wait` or `close`. A `save` that raises has not been done; it can be called again. A
        step that `restore` found damaged is replaced.

        Raises:
            CheckpointError: this save, or the one before it, failed (no space, no permission, ...);
              or a leaf
                is not a jax array, or has a dtype or a name that cannot be stored.
            ValueError: `step` is negative.
            TypeError: `meta` is not JSON.
        """
        self.wait()
        step = int(step)
        if step < 0:
            raise ValueError(f"step must not be negative, but is {step}")
        names, leaves, _ = _flatten(state)
        leaf_of = dict(zip(names, leaves, strict=True))
        if bad := [name for name, x in leaf_of.items() if not isinstance(x, jax.Array)]:
            raise CheckpointError("these leaves are not jax arrays: " + ", ".join(bad))
        if bad := [f"{name} ({x.dtype})" for name, x in leaf_of.items() if not supported(x.dtype)]:
            raise CheckpointError(
                "these leaves have dtypes that cannot be stored: " + ", ".join(bad)
            )
        replace = step in self._damaged
        if _from_first_process(step in self.steps()) and not replace:
            _log.info("checkpoint %d is already in %s", step, self.directory)
            return
        described = {
            n: [*_kind(leaf_of[n]), m] for n, m in zip(names, fingerprints(leaves), strict=True)
        }
        record = {"format": _FORMAT, "step": step, "meta": dict(meta), "leaves": described}
        # As it will be read: keys are strings, tuples are lists
        record = json.loads(json.dumps(record))
        record["checksum"] = _checksum(record)
        # The new one is to count when orbax decides, during the call, what is kept
        self._damaged.discard(step)
        response, reason = _attempt(
            lambda: self._open().save_checkpointables_async(
                step, {_STATE: _nest_filled(leaf_of), _META: record}, force=True, overwrite=replace
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
        """Keeps this step, the best one, whatever its age, until another is named."""
        self._policy.protected = step

    def steps(self) -> list[int]:
        """The steps that are complete, oldest first. They have not been checked."""
        return sorted(found.step for found in orbax_calls.Names().find_all(self.directory))

    def latest(self) -> int | None:
        """The newest complete step, not checked, or None."""
        return max(self.steps(), default=None)

    def restore(self, target: PyTree, step: int | None = None) -> tuple[PyTree, dict[str, Any]]:
        """Restore the newest checkpoint that is as it was saved, or exactly `step`.

        Args:
            target: the state wanted, as `jax.ShapeDtypeStruct`s (or arrays, whose values are not
              used). Each
                leaf is restored with its sharding, whatever it was saved with; without one, on the
                first device, or on all of them alike when there are several processes.
            step: that one only, or an error.

        Returns:
            The state, and the `meta` saved with it, to which `step` is added.

        Raises:
            CheckpointError: there is no checkpoint, or none that is undamaged (each one's reason is
              in the
                message, nothing is deleted); or `target` is not what was saved: every leaf that
                differs is listed, and no older checkpoint is tried.
        """
        names, leaves, treedef = _flatten(target)
        wanted = {name: _abstract(leaf) for name, leaf in zip(names, leaves, strict=True)}

        def load(step: int, record: dict[str, Any]) -> list[jax.Array]:
            _compare(wanted, record["leaves"], f"checkpoint {step} in {self.directory}")
            return self._load(step, record, wanted)

        found, meta = self._newest_good(load, step)
        return jax.tree.unflatten(treedef, found), meta

    def restore_params(
        self, which: str | Sequence[str] = ("ema", "params"), step: int | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Restore one part of the state without knowing the rest of it.

        Args:
            which: the parts that will do, best first: the first one that was saved is taken.
            step: as for `restore`.

        Returns:
            The part as nested dicts of NumPy arrays, checked as in `restore`, and the `meta` saved
            with it, to which `step` and `part`, the name of what was taken, are added.

        Raises:
            CheckpointError: as for `restore`; or none of the parts was saved.
        """
        parts = (which,) if isinstance(which, str) else tuple(which)

        def load(step: int, record: dict[str, Any]) -> tuple[str, dict[str, Any]]:
            saved = record["leaves"]
            part = next((p for p in parts if any(n.startswith(p + "/") for n in saved)), None)
            if part is None:
                there = ", ".join(sorted({n.split("/")[0] for n in saved}))
                raise CheckpointError(
                    f"checkpoint {step} in {self.directory} has no {' or '.join(parts)}, only "
                    f"{there}"
                )
            names = [n for n in saved if n.startswith(part + "/")]
            wanted = {
                n: _abstract(jax.ShapeDtypeStruct(saved[n][1], np.dtype(saved[n][0])))
                for n in names
            }
            arrays = [np.array(x) for x in self._load(step, record, wanted)]
            return part, _nest(
                {n.removeprefix(part + "/"): x for n, x in zip(names, arrays, strict=True)}
            )

        (part, tree), meta = self._newest_good(load, step)
        return tree, {**meta, "part": part}

    def read_meta(self, step: int | None = None) -> dict[str, Any]:
        """The `meta` of `step`, or of the newest checkpoint whose record can be read, with `step`
        added.

        Reads one small file and starts no devices. Arrays are not checked: `restore` may take an
        older step.

        Raises:
            CheckpointError: there is no such checkpoint, or its record is damaged.
        """
        reasons = {}
        for candidate in self._candidates(self.steps(), step):
            try:
                return _meta(self._record(candidate))
            except _Damaged as damage:
                reasons[candidate] = str(damage)
                self._report(candidate, str(damage))
        raise self._none_good(reasons)

    def wait(self) -> None:
        """Wait until what was saved is on disk and what is no longer kept is deleted.

        Raises:
            CheckpointError: that failed. Older checkpoints are whole, and one can go on and `save`
              again.
        """
        if self._pending is None:
            return
        (step, response), self._pending = self._pending, None
        _, reason = _attempt(response.result)
        if reason is not None:
            self._failed(step, reason)

    def close(self) -> None:
        """`wait`, and let go of orbax's threads. Raises what `wait` raises."""
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
            # Not to hide the error that ended the block
            _log.error("%s", failure)

    def _open(self) -> Any:
        if self._writer is None:
            self._writer = ocp.training.Checkpointer(
                self.directory,
                context=orbax_calls.context(_META),
                preservation_policy=self._policy,
                # What a killed or a failed save left behind would only take up space.
                cleanup_tmp_directories=True,
                step_name_format=orbax_calls.Names(),
            )
        return self._writer

    def _failed(self, step: int, reason: str) -> NoReturn:
        # orbax gets a fresh start: it has already forgotten the checkpoints that it was about to
        # delete.
        writer, self._writer = self._writer, None
        if writer is not None:
            # Raises the same error again
            _attempt(writer.close)
        if jax.process_count() == 1:
            # Clears what the failed save left, which may be what fills the disk
            _attempt(self._open)
        if step in self.steps():
            message = f"checkpoint {step} is in {self.directory}, but older ones could not be deleted: {reason}"
        else:
            message = f"checkpoint {step} could not be saved in {self.directory}: {reason}"
        raise CheckpointError(message)

    def _candidates(self, steps: list[int], step: int | None) -> list[int]:
        if step is None and steps:
            return steps[::-1]
        if step is None:
            raise CheckpointError(f"there is no checkpoint in {self.directory}")
        if step not in steps:
            there = ", ".join(map(str, steps)) or "none"
            raise CheckpointError(
                f"there is no checkpoint {step} in {self.directory}; there are: {there}"
            )
        return [step]

    def _newest_good(self, load: Any, step: int | None) -> tuple[Any, dict[str, Any]]:
        self.wait()
        reasons: dict[int, str] = {}
        for candidate in self._candidates(_from_first_process(self.steps()), step):
            damage: str | None = None
            try:
                record = self._record(candidate)
                result = load(candidate, record)
            except _Damaged as found:
                damage = str(found)
            if not _all_processes(damage is None):
                damage = damage or "another process could not read it"
            if damage is None:
                self._damaged.discard(candidate)
                return result, _meta(record)
            reasons[candidate] = damage
            self._damaged.add(candidate)
            self._report(candidate, damage)
        raise self._none_good(reasons)

    def _report(self, step: int, damage: str) -> None:
        _log.error(
            "CHECKPOINT %d IN %s IS DAMAGED and is not used: %s", step, self.directory, damage
        )

    def _none_good(self, reasons: Mapping[int, str]) -> CheckpointError:
        lines = "".join(f"\n  {step}: {reason}" for step, reason in reasons.items())
        return CheckpointError(
            f"no usable checkpoint in {self.directory}; nothing was changed there:{lines}"
        )

    def _record(self, step: int) -> dict[str, Any]:
        """The JSON record, read without orbax: that would start the devices."""
        path = self.directory / str(step) / _META / "data.json"
        try:
            record = json.loads(path.read_text())
            checksum = record.pop("checksum")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _Damaged(f"{path}: {type(error).__name__}: {error}") from error
        if checksum != _checksum(record):
            raise _Damaged(f"{path}: its checksum does not match")
        if record["format"] != _FORMAT:
            raise _Damaged(f"{path}: format {record['format']}, and this version reads {_FORMAT}")
        if record["step"] != step:
            raise _Damaged(f"{path}: this is step {record['step']}")
        return record

    def _load(
        self, step: int, record: dict[str, Any], wanted: Mapping[str, jax.ShapeDtypeStruct]
    ) -> list[jax.Array]:
        folder = self.directory / str(step)

        def load() -> tuple[list[jax.Array], list[str]]:
            loaded = ocp.load_checkpointables(folder, {_STATE: _nest_filled(wanted)})
            names, found, _ = _flatten(loaded[_STATE])
            array_of = dict(zip(names, found, strict=True))
            arrays = [array_of[n] if x.size else _empty(x) for n, x in wanted.items()]
            return arrays, fingerprints(arrays)

        result, reason = _attempt(load)
        if result is None:
            raise _Damaged(f"{reason}{orbax_calls.unreadable(folder / _STATE)}")
        arrays, marks = result
        saved = record["leaves"]
        changed = [
            n for n, x, m in zip(wanted, arrays, marks, strict=True) if [*_kind(x), m] != saved[n]
        ]
        if changed:
            raise _Damaged(
                f"{len(changed)} of {len(wanted)} arrays are not what was saved: "
                f"{', '.join(changed)}"
            )
        return arrays


def _attempt(action: Callable[[], T]) -> tuple[T, None] | tuple[None, str]:
    return orbax_calls.attempt(action, _META)


def _flatten(tree: PyTree) -> tuple[list[str], list[Any], Any]:
    """Names, leaves and structure. Raises CheckpointError for names that would not be told apart on
    disk.
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(tree)
    parts = [[jax.tree_util.keystr((key,), simple=True) for key in path] for path, _ in paths]
    names = ["/".join(part) for part in parts]
    bad = [
        n
        for n, part in zip(names, parts, strict=True)
        if not part or any(not p or "/" in p for p in part)
    ]
    # orbax joins with dots: {"a.b": x} and {"a": {"b": y}} would be one file.
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.replace(".", "/"), name)
        if other is not name:
            bad.append(name)
    if bad or not names:
        raise CheckpointError(
            "leaves cannot be stored under these names: " + (", ".join(bad) or "(no leaves)")
        )
    return names, [leaf for _, leaf in paths], treedef


def _nest_filled(leaves: Mapping[str, Any]) -> dict[str, Any]:
    # Orbax refuses arrays without elements
    return _nest({n: x for n, x in leaves.items() if x.size})


def _empty(like: jax.ShapeDtypeStruct) -> jax.Array:
    return jax.device_put(np.zeros(like.shape, like.dtype), like.sharding)


def _nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None)
    if sharding is None and jax.process_count() > 1:
        sharding = NamedSharding(Mesh(np.array(jax.devices()), ("all",)), PartitionSpec())
    elif sharding is None:
        sharding = SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _kind(leaf: Any) -> list[Any]:
    return [str(np.dtype(leaf.dtype)), list(leaf.shape)]


def _compare(wanted: Mapping[str, Any], saved: Mapping[str, list[Any]], what: str) -> None:
    def show(kind: Sequence[Any]) -> str:
        return f"{kind[0]}{list(kind[1])}"

    lines = [f"missing: {n} {show(_kind(x))}" for n, x in wanted.items() if n not in saved]
    lines += [f"unexpected: {n} {show(kind)}" for n, kind in saved.items() if n not in wanted]
    lines += [
        f"differs: {n} was saved as {show(saved[n])}, but {show(_kind(x))} is wanted"
        for n, x in wanted.items()
        if n in saved and saved[n][:2] != _kind(x)
    ]
    if lines:
        raise CheckpointError(f"{what} is not the state that is wanted:\n  " + "\n  ".join(lines))


def _checksum(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _meta(record: Mapping[str, Any]) -> dict[str, Any]:
    return {**record["meta"], "step": record["step"]}


def _from_first_process(value: Any) -> Any:
    """Process 0's answer: what others see of a shared folder may be a little older."""
    if jax.process_count() == 1:
        return value
    text = json.dumps(value).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    data = np.frombuffer(text[:size].ljust(size), np.uint8)
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(data))))


def _all_processes(good: bool) -> bool:
    return (
        good
        if jax.process_count() == 1
        else bool(multihost_utils.process_allgather(np.array(good)).all())
    )
