"""Names of results, and what earlier runs left there.

One rule holds for images and videos. Each result records its source and its tasks
(`images.origin`). A result of the same source and tasks is left alone. Where another file has the
name `photo.png`, the result is `photo_TASK.png`. Nothing is replaced unless the user asks for it.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ipt_jax.images.files import MAX_BYTES
from ipt_jax.images.origin import Origin, digest_of
from ipt_jax.images.read import read_origin
from ipt_jax.images.write import fitted_name
from ipt_jax.restore.plan import Job


@dataclasses.dataclass(frozen=True)
class Placed:
    """What is to be done with the jobs.

    Attributes:
      todo: jobs with the names of their results and with the origins to record.
      done: jobs whose results are there, made from the same source by the same tasks.
      blocked: jobs whose results cannot be written without `--overwrite`, and why.
      notes: remarks for the user about names.
    """

    todo: list[Job]
    done: list[Job]
    blocked: list[tuple[Job, str]]
    notes: list[str]


def place_results(
    jobs: Sequence[Job],
    tasks: Sequence[str],
    *,
    overwrite: bool,
    fixed: bool,
    elsewhere: Sequence[Job] = (),
) -> Placed:
    """Chooses the name of each result.

    Args:
      jobs: the jobs with their first choice of a name.
      tasks: names of the tasks, in the order in which they are applied.
      overwrite: whether an existing result is replaced.
      fixed: whether the user has named the result, so that no other name may be chosen.
      elsewhere: jobs that other processes do, perhaps at the same time; their first choices of
        names and their sources are not taken.
    """
    placed = Placed([], [], [], [])
    inputs = {job.source.resolve() for job in (*jobs, *elsewhere)}
    taken = {str(job.out).lower() for job in elsewhere}
    for job in jobs:
        job = dataclasses.replace(job, origin=origin_of(job, tasks))
        if fixed:
            _place_fixed(job, overwrite, placed)
        else:
            _place(job, inputs, taken, overwrite, placed)
    return placed


def origin_of(job: Job, tasks: Sequence[str]) -> Origin:
    """Returns the record of a job's result. The digest is empty for a file that cannot be read."""
    source = job.title or os.path.relpath(job.source.absolute(), job.out.parent.absolute())
    try:
        # A larger image is refused when it is read.
        digest = digest_of(job.source, None if job.video else MAX_BYTES)
    except OSError:
        digest = ""
    return Origin(source, digest, tuple(tasks))


def _place_fixed(job: Job, overwrite: bool, placed: Placed) -> None:
    if overwrite or not job.out.exists():
        placed.todo.append(job)
    elif _found(job, job.out) == "done":
        placed.done.append(job)
    else:
        placed.blocked.append((job, _why_blocked(job, job.out)))


def _place(job: Job, inputs: set[Path], taken: set[str], overwrite: bool, placed: Placed) -> None:
    """Takes the first free name, or the name under which this result is there already."""
    first_choice: Path | None = None
    passed: list[tuple[Path, str]] = []
    assert job.origin is not None
    for out in candidates(job.out, job.origin.tasks):
        # Names are compared in lower case, because some file systems do not distinguish cases.
        if str(out).lower() in taken:
            continue
        if out.resolve() in inputs:
            passed.append((out, "an input"))
            continue
        first_choice = first_choice or out
        state = _found(job, out)
        if state in ("done", "outdated") and not overwrite:
            taken.add(str(out).lower())
            here = dataclasses.replace(job, out=out)
            if state == "done":
                placed.done.append(here)
            else:
                placed.blocked.append((here, _why_blocked(here, out)))
            return
        if state in ("free", "done", "outdated"):
            break
        passed.append((out, state))
    if overwrite and state == "free" and first_choice is not None:
        out, passed = first_choice, [entry for entry in passed if entry[1] == "an input"]
    taken.add(str(out).lower())
    unknown = [entry for entry in passed if entry[1] != "a result of other tasks"]
    if unknown:
        path, what = unknown[0]
        placed.notes.append(f"{path} is there ({what}), so the result of {job.name} is {out}")
    placed.todo.append(dataclasses.replace(job, out=out))


def _found(job: Job, out: Path) -> str:
    """Returns "free", "done", "outdated", or what else has the name of a result."""
    if not os.path.lexists(out):
        return "free"
    there, wanted = read_origin(out), job.origin
    if there is None or wanted is None:
        return "a file of unknown origin"
    if there.tasks != wanted.tasks:
        return "a result of other tasks"
    if there.sha256 == wanted.sha256:
        return "done"
    return "outdated" if there.source == wanted.source else "a result of another source"


def _why_blocked(job: Job, out: Path) -> str:
    state = _found(job, out)
    return "made before its source changed" if state == "outdated" else state


def candidates(out: Path, tasks: Sequence[str]) -> Iterator[Path]:
    """Yields the names for a result: photo.png, photo_TASK.png, photo_TASK_2.png, ..."""
    tag = re.sub(r"[^\w.@-]+", "_", "_".join(tasks))
    yield out
    for number in itertools.count(1):
        rest = f"_{tag}" + (f"_{number}" if number > 1 else "") + out.suffix
        yield out.with_name(fitted_name(out.stem, rest))
