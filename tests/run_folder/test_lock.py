"""Two runs never share a folder; the lock of a killed run does not keep others out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import places
import pytest
from etils import epath

from ipt_jax import errors
from ipt_jax.run_folder import lock

HOLD = """
import sys, time
from etils import epath
from ipt_jax.run_folder import lock
with lock.hold(epath.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def other(folder) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(places.ROOT)}
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


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


def test_the_heartbeat_of_object_stores(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "is_remote", lambda path: True)
    # On a busy machine a thread may wait for a tenth of a second.
    monkeypatch.setattr(lock, "BEAT", 0.5)
    folder, path = epath.Path(tmp_path), epath.Path(tmp_path / "lock")
    owner = f"process {os.getpid()} on "
    with lock.hold(folder):
        with pytest.raises(errors.Locked, match=owner), lock.hold(folder):
            pass
        last = path.read_text()
    # A killed owner leaves its file behind, which then does not change any more.
    path.write_text(last)
    with lock.hold(folder):
        assert path.read_text() != last
    assert not path.exists()
