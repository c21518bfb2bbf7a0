"""Two runs never share a folder; the lock of a killed run does not keep others out."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import places
import pytest
from etils import epath

from ipt_jax import errors
from ipt_jax.run_folder import lock

HOLD = """
import errno, fcntl, sys, time
from etils import epath
from ipt_jax.run_folder import lock

def no_locks(*_):
    raise OSError(errno.ENOLCK, "No locks available")

if sys.argv[2] == "heartbeat":
    fcntl.flock = no_locks
with lock.hold(epath.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def other(folder, kind: str = "kernel") -> subprocess.Popen:
    """Starts a process that holds the lock on a folder."""
    environment = os.environ | {"PYTHONPATH": str(places.ROOT)}
    command = [sys.executable, "-c", HOLD, str(folder), kind]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def heartbeat(monkeypatch):
    """Makes the locks of this process heartbeat locks, as on a file system without file locks."""

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    # On a busy machine a thread may wait for a tenth of a second.
    for name, seconds in (("BEAT", 0.5), ("STALE", 4.0), ("SETTLE", 0.1)):
        monkeypatch.setattr(lock, name, seconds)


def test_a_second_process_is_refused_and_a_killed_one_leaves_the_folder_free(tmp_path):
    folder = epath.Path(tmp_path / "run")
    process = other(folder)
    try:
        said = rf"belongs to a run that is under way \(process {process.pid} on .*, since 20"
        with pytest.raises(errors.Locked, match=said), lock.hold(folder):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        # The killed process left its lock.
        assert json.loads((folder / "lock").read_text())["pid"] == process.pid
        with lock.hold(folder):
            assert json.loads((folder / "lock").read_text())["pid"] == os.getpid()
        assert not (folder / "lock").exists()
    finally:
        process.kill()
        process.wait(60)


def test_only_one_of_many_threads_gets_it(tmp_path):
    folder, got, refused = epath.Path(tmp_path), [], []
    start, done = threading.Barrier(8), threading.Barrier(8)

    def run() -> None:
        start.wait(30)
        try:
            with lock.hold(folder):
                got.append(1)
                done.wait(30)
        except errors.Locked:
            refused.append(1)
            done.wait(30)

    for _ in range(20):
        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(got), len(refused)) == (20, 140)
    assert not list(folder.iterdir())


def test_a_folder_in_which_nothing_was_written_is_not_left_behind(tmp_path):
    with pytest.raises(ValueError, match="refused"), lock.hold(epath.Path(tmp_path / "a")):
        raise ValueError("refused")
    with lock.hold(epath.Path(tmp_path / "b")):
        pass
    with lock.hold(epath.Path(tmp_path / "c")):
        (tmp_path / "c" / "config.json").write_text("{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


def test_a_file_system_without_file_locks_gets_a_heartbeat(tmp_path, heartbeat, caplog):
    folder, path = epath.Path(tmp_path), tmp_path / "lock"
    with lock.hold(folder) as held:
        assert "has no file locks (No locks available)" in caplog.text
        with pytest.raises(errors.Locked, match=f"process {os.getpid()} on "), lock.hold(folder):
            pass
        held.check()
        last = json.loads(path.read_text())
    assert not path.exists()
    # An owner on another machine that has ended leaves a file that does not change any more.
    path.write_text(json.dumps({**last, "machine": "another"}))
    begun = time.monotonic()
    with caplog.at_level(logging.INFO), lock.hold(folder):
        assert time.monotonic() - begun >= lock.STALE
        assert json.loads(path.read_text())["id"] != last["id"]
    assert "waiting for up to 4 s to see whether it is alive" in caplog.text
    assert "is stale and is taken over" in caplog.text
    assert not path.exists()


def test_the_heartbeat_of_a_dead_process_of_this_machine_is_taken_over_at_once(
    tmp_path, heartbeat, monkeypatch
):
    monkeypatch.setattr(lock, "STALE", 600.0)
    process = other(tmp_path, "heartbeat")
    process.kill()
    process.wait(60)
    assert json.loads((tmp_path / "lock").read_text())["pid"] == process.pid
    with lock.hold(epath.Path(tmp_path)) as held:
        held.check()


DAMAGED = b'{"host": "caf\xe9", "pid": 7, \xff\xfe'


def test_a_damaged_lock_file_does_not_matter(tmp_path, heartbeat, monkeypatch, caplog):
    """Its bytes need not be text; a lock in such a file can be stale or alive."""
    path = tmp_path / "lock"
    path.write_bytes(DAMAGED)
    with lock.hold(epath.Path(tmp_path)) as held:
        held.check()
        assert "the lock of another process is stale" in caplog.text
        path.write_bytes(DAMAGED)
        with pytest.raises(errors.LockLost, match=r"taken by another run \(another process\)"):
            held.check()
    monkeypatch.undo()
    path.write_bytes(DAMAGED)
    with lock.hold(epath.Path(tmp_path)) as held:
        path.write_bytes(DAMAGED)
        with pytest.raises(errors.Locked, match="another process"), lock.hold(epath.Path(tmp_path)):
            pass
        held.check()


def replace_file(path: pathlib.Path) -> None:
    """Does what another run does after someone has deleted the file."""
    path.unlink()
    path.write_text(json.dumps({"host": "elsewhere", "pid": 7, "since": "noon", "id": "x"}))


def overwrite(path: pathlib.Path) -> None:
    """Does what another run does that takes over a heartbeat lock."""
    path.write_text(json.dumps({"host": "elsewhere", "pid": 7, "since": "noon", "id": "x"}))


LOSSES = [
    (lambda path: path.unlink(), "lock was deleted while .* start the same command again"),
    (replace_file, r"taken by another run \(process 7 on elsewhere, since noon\)"),
    (lambda path: shutil.rmtree(path.parent), "run was deleted or moved while .* a new run"),
    (lambda path: path.parent.rename(path.parent.with_name("moved")), "run was deleted or moved"),
]


def assert_lost(folder: pathlib.Path, lose, said: str) -> None:
    with lock.hold(epath.Path(folder)) as held:
        held.check()
        held.check(quick=True)
        lose(folder / "lock")
        with pytest.raises(errors.LockLost, match=said):
            held.check()
        # It stays lost, also for a check that makes no request.
        with pytest.raises(errors.LockLost):
            held.check(quick=True)
    if lose in (replace_file, overwrite):
        # The lock of another run is not removed.
        assert json.loads((folder / "lock").read_text())["pid"] == 7


@pytest.mark.parametrize(("lose", "said"), LOSSES, ids=["deleted", "replaced", "gone", "moved"])
def test_a_kernel_lock_that_is_lost(tmp_path, lose, said):
    assert_lost(tmp_path / "run", lose, said)


@pytest.mark.parametrize(
    ("lose", "said"),
    [*LOSSES, (overwrite, "taken by another run")],
    ids=["deleted", "replaced", "gone", "moved", "overwritten"],
)
def test_a_heartbeat_lock_that_is_lost(tmp_path, heartbeat, lose, said):
    assert_lost(tmp_path / "run", lose, said)


def test_an_owner_that_was_suspended_finds_its_lock_taken(tmp_path, heartbeat, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 600.0)
    with lock.hold(epath.Path(tmp_path)) as held:
        overwrite(tmp_path / "lock")
        held.check(quick=True)
        # A process that is suspended sees the clock jump.
        later = time.time() + lock.STALE
        monkeypatch.setattr(time, "time", lambda: later)
        with pytest.raises(errors.LockLost, match="taken by another run"):
            held.check(quick=True)
        monkeypatch.setattr(lock, "BEAT", 0.5)


RACE = """
import json, os, random, sys
from etils import epath
from ipt_jax import errors
from ipt_jax.run_folder import lock

root, number, folders, turns = sys.argv[1], *map(int, sys.argv[2:])
rng, counts = random.Random(number), {"held": 0, "refused": 0, "wrong": []}
for line in sys.stdin:
    folder = epath.Path(root) / line.strip()
    for turn in range(turns):
        try:
            with lock.hold(folder) as held:
                counts["held"] += 1
                owner = os.open(folder / "owner", os.O_CREAT | os.O_EXCL)
                if rng.random() < 0.1:
                    (folder / f"kept {number} {turn}").write_text("")
                    print(folder / f"kept {number} {turn}", flush=True)
                held.check()
                os.close(owner)
                os.unlink(folder / "owner")
        except errors.Locked:
            counts["refused"] += 1
        except Exception as error:
            counts["wrong"].append(f"{error!r} {getattr(error, 'filename', '')}")
    print("done", flush=True)
print(json.dumps(counts))
"""


def race(root: pathlib.Path, folders: int, turns: int) -> None:
    """Lets four processes take the lock of each folder again and again.

    The folders do not exist at first, and are removed while they are empty.
    """
    environment = os.environ | {"PYTHONPATH": str(places.ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(root), str(i), str(folders), str(turns)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for i in range(4)
    ]
    kept, counts = [], []
    try:
        for folder in range(folders):
            for process in processes:
                process.stdin.write(f"{folder}\n")
                process.stdin.flush()
            for process in processes:
                while (said := process.stdout.readline().strip()) != "done":
                    assert said, "a process has ended"
                    kept.append(pathlib.Path(said))
        for process in processes:
            counts.append(json.loads(process.communicate(timeout=60)[0]))
    finally:
        for process in processes:
            process.kill()
            process.wait(60)
    print(f"{folders} folders:", counts, f"{len(kept)} files kept")
    assert [one["wrong"] for one in counts] == [[]] * 4
    assert all(one["held"] for one in counts) and any(one["refused"] for one in counts)
    # No folder was removed that was not empty. One whose creator was not the last stays.
    assert all(path.exists() for path in kept)
    assert {path for path in root.rglob("*") if path.is_file()} == set(kept)


def test_four_processes_race_for_a_folder_that_comes_and_goes(tmp_path):
    race(tmp_path, folders=100, turns=4)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_four_processes_race_for_many_folders(tmp_path):
    # Folders that are new are the ones that are removed.
    for folders, turns in ((1000, 2), (500, 4), (50, 20)):
        (tmp_path / str(turns)).mkdir()
        race(tmp_path / str(turns), folders=folders, turns=turns)
