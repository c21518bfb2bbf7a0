"""Worker processes: their errors reach the caller, and nothing of them is left behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import places
import pytest
from data_sets import Noisy, Raising, batches, digest, jpeg, taken

from ipt_jax import errors
from ipt_jax.data import shared_memory as shared
from ipt_jax.data import workers
from ipt_jax.data.pipeline import stream
from ipt_jax.data.sources.folder import Folder
from ipt_jax.errors import DataError


def test_an_exception_in_a_worker_arrives_with_its_traceback():
    for loader in (dict(workers=2, threads=0, prefetch=1), dict(workers=0, threads=2, prefetch=1)):
        with pytest.raises(ZeroDivisionError, match="own code") as error:
            taken(batches(Raising(9)), 0, 4, loader)
        assert any(entry.name == "__getitem__" for entry in error.traceback)


def test_an_error_of_the_storage_is_not_a_broken_picture():
    class Gone(Noisy):
        def __getitem__(self, i: int) -> np.ndarray:
            raise DataError("the disk does not answer")

    with pytest.raises(DataError, match="the disk does not answer"):
        taken(batches(Gone(9)), 0, 4, dict(workers=1, threads=0, prefetch=1))


def children() -> list[int]:
    return [child.pid for child in multiprocessing.active_children()]


def test_a_killed_worker_is_an_error_and_takes_the_others_along():
    before = set(children())
    with contextlib.closing(
        stream(batches(Noisy(9)), 0, 1_000_000, dict(workers=2, threads=0, prefetch=1))
    ) as items:
        next(items)
        mine = [pid for pid in children() if pid not in before]
        assert len(mine) == 2
        os.kill(mine[0], signal.SIGKILL)
        with pytest.raises(
            errors.WorkerError, match=r"died with exit code -9 \(killed, often for lack of memory"
        ):
            for _ in range(100):
                next(items)
    assert not set(children()) & set(mine)


def test_an_iterator_left_half_way_leaves_no_process():
    before = set(children())
    items = stream(batches(Noisy(9)), 0, 1_000_000, dict(workers=2, threads=0, prefetch=2))
    next(items)
    assert len(set(children()) - before) == 2
    items.close()
    assert set(children()) == before
    with pytest.raises(StopIteration):
        next(items)


def left_behind(pid: int) -> list[pathlib.Path]:
    """Returns the folders in shared memory of one process's streams.

    Other tests may create and remove folders at the same time.
    """
    return list(pathlib.Path("/dev/shm").glob(f"ipt-data-{pid}-*"))


SCRIPT = """
import sys
from ipt_jax.data import pipeline, sources
from ipt_jax.tasks import make_tasks
batches = pipeline.Batches(sources.Folder(sys.argv[1]), make_tasks(["sr2", "derain"]), 0, 8, 12, 2)
items = pipeline.stream(batches, 0, 1000, dict(workers=int(sys.argv[2]), threads=2, prefetch=2))
kept = [next(items) for _ in range(5)]
if sys.argv[3] == "close":
    items.close()
print("left", len(kept))
"""


@pytest.mark.parametrize(
    ("kind", "count", "how"),
    [("-c", 0, "abandon"), ("-c", 2, "close"), ("-c", 2, "abandon"), ("file", 2, "abandon")],
)
def test_programs_end_quietly_whatever_they_leave_open(tmp_path, kind, count, how):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(i))
    # The script has no `if __name__ == "__main__"` guard, as in a notebook.
    (tmp_path / "script.py").write_text(SCRIPT)
    program = ["-c", SCRIPT] if kind == "-c" else [str(tmp_path / "script.py")]
    environment = os.environ | {
        "PYTHONPATH": str(places.ROOT),
        "TMPDIR": str(tmp_path),
    }
    command = [
        sys.executable,
        "-W",
        "default",
        "-W",
        "ignore::DeprecationWarning",
        *program,
        str(tmp_path),
        str(count),
        how,
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as run:
        try:
            said = run.communicate(timeout=120)
        finally:
            run.kill()
    assert (run.returncode, *said) == (0, "left 5\n", "")
    assert not list(tmp_path.glob("ipt-data-*"))
    assert not left_behind(run.pid)


class Slow(Noisy):
    def __getitem__(self, i: int) -> np.ndarray:
        time.sleep(0.2)
        return super().__getitem__(i)


@pytest.mark.parametrize("threads", [0, 1])
def test_a_slow_source_is_said_and_one_that_stalls_is_given_up(caplog, monkeypatch, threads):
    monkeypatch.setattr(workers, "PATIENCE", 0.02)
    with caplog.at_level("WARNING", "ipt_jax"):
        taken(batches(Slow(9)), 0, 1, dict(workers=0, threads=threads, prefetch=1))
    assert "no batch for" in caplog.text
    monkeypatch.setattr(workers, "ABANDONED", 0.01)
    items = workers.make_ahead(
        batches(Slow(9)), range(9), 0, threads, 1, stalled=0.1, what="the old disk"
    )
    with pytest.raises(
        errors.Stalled, match=r"no batch for 0 s \(data.stalled\): the old disk does not answer"
    ):
        next(items)
    assert workers.hang()
    end = time.monotonic() + 60
    while workers.hang() and time.monotonic() < end:
        time.sleep(0.05)
    assert not workers.hang()


def test_batches_of_workers_can_be_kept_and_written_to():
    which = batches(Noisy(9))
    with contextlib.closing(stream(which, 0, 6, dict(workers=1, threads=0, prefetch=1))) as items:
        kept = list(items)
    for step, item in enumerate(kept):
        # The order of the tasks is the config's.
        assert list(item.batch) == list(which(step).batch)
        assert digest(item.batch) == digest(which(step).batch)
        for pair in item.batch.values():
            for array in pair.values():
                assert type(array) is np.ndarray and array.ctypes.data % 64 == 0
                array[:] = 1


def test_without_room_in_shared_memory_batches_go_by_the_disk(tmp_path):
    which = batches(Noisy(9))
    room = shared.Room()
    try:
        memory, disk = room.folders[0], room.folders[-1]
        # The first folder cannot be written to.
        room.folders[:] = ["/dev/full/no-folder", memory, disk]
        parcel = shared.Sender(which, room)(3)
        assert parcel.path.startswith(memory)
        assert digest(shared.receive(parcel).batch) == digest(which(3).batch)
        assert not os.path.exists(parcel.path)
        room.folders[:] = ["/dev/full/no-folder"]
        with pytest.raises(OSError, match="no-folder"):
            shared.Sender(which, room)(3)
        room.folders[:] = [memory, disk]
    finally:
        room.remove()
    assert not os.path.exists(memory) and not os.path.exists(disk)


HOLDER = """
import sys, time
from ipt_jax.data import shared_memory
rooms = [shared_memory.Room() for _ in range(2)]
for room in rooms:
    for folder in room.folders:
        open(folder + "/1", "wb").write(bytes(1000))
print(*[folder for room in rooms for folder in room.folders], flush=True)
time.sleep(600)
"""


def test_the_next_run_clears_what_killed_runs_left_and_only_that():
    start = [sys.executable, "-c", HOLDER]
    processes = [subprocess.Popen(start, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    dead = processes[0]
    try:
        left, used = (process.stdout.readline().split() for process in processes)
        dead.kill()
        dead.wait()
        # A folder with the name of a dead process that another program holds is not touched.
        memory = os.path.dirname(left[0])
        foreign = os.path.join(memory, f"ipt-other-{dead.pid}-x")
        os.mkdir(foreign)
        try:
            assert len(left) == len(used) == 4 and all(map(os.path.isdir, left + used))
            room = shared.Room()
            room.remove()
            assert not any(map(os.path.exists, left)), "an abandoned folder is still there"
            assert all(os.path.exists(f"{folder}/1") for folder in used), "a live run lost its data"
            assert os.path.isdir(foreign)
        finally:
            os.rmdir(foreign)
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()
    shared.Room().remove()
    assert not any(map(os.path.exists, used))


def test_items_without_arrays_pass_too():
    room = shared.Room()
    try:
        for value in ({"a": 1, "b": [2]}, np.zeros((0, 3)), (np.arange(3), np.zeros(0), "x")):
            np.testing.assert_equal(
                shared.receive(shared.Sender(lambda step, value=value: value, room)(0)), value
            )
        assert not any(os.listdir(folder) for folder in room.folders)
    finally:
        room.remove()


ORPHAN = """
import multiprocessing, os, sys, time
from ipt_jax.data import pipeline, sources
from ipt_jax.tasks import make_tasks
batches = pipeline.Batches(sources.Folder(sys.argv[1]), make_tasks(["sr2", "derain"]), 0, 8, 12, 2)
items = pipeline.stream(batches, 0, 100000, dict(workers=2, threads=2, prefetch=1))
next(items)
print(*[child.pid for child in multiprocessing.active_children()], flush=True)
time.sleep(600)
"""


def test_workers_do_not_outlive_a_killed_run_and_outlive_the_schedulers_sigterm(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(i))
    environment = os.environ | {
        "PYTHONPATH": str(places.ROOT),
        "TMPDIR": str(tmp_path),
    }
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as run:
        try:
            pids = [int(pid) for pid in run.stdout.readline().split()]
            assert len(pids) == 2
            os.kill(pids[0], signal.SIGTERM)
            os.kill(pids[0], signal.SIGINT)
            os.kill(pids[0], signal.SIGHUP)
            time.sleep(1)
            assert all(alive(pid) for pid in pids)
        finally:
            run.kill()
    for _ in range(200):
        if not any(alive(pid) for pid in pids) and not left_behind(run.pid):
            break
        time.sleep(0.1)
    assert not any(alive(pid) for pid in pids)
    assert not left_behind(run.pid) and not list(tmp_path.glob("ipt-data-*"))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie is dead, too.
    state = pathlib.Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def memory() -> float:
    """Returns the private memory of this process and its children in MB (Linux)."""
    total = 0
    for pid in [os.getpid(), *children()]:
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Private"):
                total += int(line.split()[1])
    return total / 1024


@pytest.mark.soak
@pytest.mark.skipif(
    not pathlib.Path("/proc/self/smaps_rollup").exists(), reason="measures memory as Linux tells it"
)
@pytest.mark.parametrize(
    "loader",
    [dict(workers=2, threads=0, prefetch=2), dict(workers=0, threads=2, prefetch=2)],
    ids=["workers", "threads"],
)
def test_memory_stays_flat_over_20000_batches(tmp_path, loader):
    for i in range(20):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(i)[: 2000 if i == 7 else None])
    which = batches(Folder(tmp_path), tasks=["sr2", "derain"], batch_size=4)
    used = []
    with contextlib.closing(stream(which, 0, 20_000, loader)) as items:
        for step, _ in enumerate(items):
            if step % 1000 == 999:
                used.append(memory())
    assert len(used) == 20
    assert max(used[10:]) < min(used[2:10]) + 10, used
