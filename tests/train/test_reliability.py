"""What docs/reliability.md promises, tested with real faults where one machine suffices."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import logging
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import jax.numpy as jnp
import numpy as np
import pytest
from training import arrays, assert_same, command, config, lines, make_photographs, wait_for_step

from ipt_jax.checkpoints.checkpoints import Checkpoints
from ipt_jax.data import pipeline
from ipt_jax.distributed import sharding
from ipt_jax.errors import ConfigError, RunError
from ipt_jax.step import optim
from ipt_jax.train import setup, stop_signals
from ipt_jax.train.loop import pretrain

pytest.importorskip("skimage", reason="needs scikit-image's photographs")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> pathlib.Path:
    return make_photographs(tmp_path_factory.mktemp("photographs"))


def start(run: list[str]) -> subprocess.Popen:
    return subprocess.Popen(run, stderr=subprocess.DEVNULL, start_new_session=True)


def stop(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)


def test_a_second_run_is_refused_and_a_dead_ones_lock_is_taken_over(photographs, tmp_path):
    workdir = tmp_path / "run"
    run = command(
        photographs,
        workdir,
        tmp_path,
        "--config.steps=100000",
        "--config.log.every=1",
        checkpoint={"every": 5},
    )
    process = start(run)
    try:
        wait_for_step(workdir, 7, process)
        second = subprocess.run(run, capture_output=True, text=True, timeout=120)
        assert second.returncode == 2
        assert f"belongs to a run that is under way (process {process.pid} on " in second.stderr
        assert process.poll() is None
    finally:
        stop(process)
    # A killed process does not remove its lock.
    assert (workdir / "lock").exists()
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        saved = checkpoints.latest()
    assert pretrain(config(photographs, steps=saved + 1), str(workdir)).step == saved + 1
    assert not (workdir / "lock").exists()


@contextlib.contextmanager
def stalled_mount(folder: pathlib.Path) -> Iterator[None]:
    """Mounts over a folder a file system whose server never answers, as a dead NFS server does."""
    if not os.access("/dev/fuse", os.W_OK) or os.geteuid():
        pytest.skip("needs root and /dev/fuse")
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    try:
        if libc.mount(b"stalled", os.fsencode(folder), b"fuse", 0, options):
            pytest.skip(f"cannot mount: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            # MNT_DETACH
            libc.umount2(os.fsencode(folder), 2)
    finally:
        # This also ends whatever still waits for an answer.
        os.close(device)


@pytest.fixture
def stalls() -> Iterator[contextlib.ExitStack]:
    """Takes stalled mounts of a test, and ends them after the test has stopped its processes."""
    with contextlib.ExitStack() as stack:
        yield stack


def stall(photographs: pathlib.Path, tmp_path: pathlib.Path, limit: int, **data) -> None:
    """Lets the storage of a run stall while it trains, and checks how the run ends."""
    folder, workdir = shutil.copytree(photographs, tmp_path / "pictures"), tmp_path / "run"
    run = command(
        folder,
        workdir,
        tmp_path,
        "--config.steps=100000",
        "--config.log.every=1",
        f"--config.data.stalled={limit}",
        f"--config.log.stacks_after={limit / 2}",
        data=data,
    )
    with open(tmp_path / "stderr", "w") as stderr:
        process = subprocess.Popen(run, stderr=stderr, start_new_session=True)
    try:
        wait_for_step(workdir, 3, process)
        with stalled_mount(folder):
            process.wait(60 + 2 * limit)
    finally:
        stop(process)
    said = (tmp_path / "stderr").read_text()
    assert process.returncode == 1, said
    assert f"no batch for {limit} s (data.stalled): data.dir='{folder}' does not answer" in said
    assert "Timeout (0:00:" in said and "in _wait" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_storage_that_stalls_is_named_and_the_stacks_are_written(photographs, tmp_path):
    stall(photographs, tmp_path, limit=6, workers=0, threads=2)


# The limit must exceed the time that a worker needs to start on a busy machine.
@pytest.mark.soak
def test_storage_that_stalls_under_worker_processes(photographs, tmp_path):
    stall(photographs, tmp_path, limit=60, workers=1)


@pytest.mark.parametrize(
    ("number", "codes"),
    [
        (signal.SIGTERM, (-signal.SIGTERM, 128 + signal.SIGTERM)),
        pytest.param(signal.SIGINT, (1,), marks=pytest.mark.slow),
    ],
)
def test_a_second_signal_leaves_at_once_with_the_last_checkpoint_whole(
    photographs, tmp_path, number, codes, stalls
):
    folder, workdir = shutil.copytree(photographs, tmp_path / "pictures"), tmp_path / "run"
    changes = {
        "checkpoint": {"every": 2, "keep": 2, "keep_every": 0},
        "data": {"workers": 0, "threads": 2},
    }
    process = start(
        command(
            folder, workdir, tmp_path, "--config.steps=100000", "--config.log.every=1", **changes
        )
    )
    try:
        wait_for_step(workdir, 5, process)
        # The first signal waits for the end of the step, which the storage prevents.
        stalls.enter_context(stalled_mount(folder))
        before = -1
        while before != (before := (workdir / "metrics.jsonl").stat().st_size):
            time.sleep(0.5)
        process.send_signal(number)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(number)
        # The exit code 0 would be the orderly end that the first signal asks for.
        assert process.wait(60) in codes
    finally:
        stop(process)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        saved = checkpoints.latest()
        assert saved >= 2 and checkpoints.restore_params()[1]["step"] == saved


@pytest.mark.slow
def test_a_signal_while_data_do_not_come_saves_all_the_same(photographs, tmp_path, stalls):
    folder, workdir = shutil.copytree(photographs, tmp_path / "pictures"), tmp_path / "run"
    changes = {
        "checkpoint": {"every": 100_000, "keep": 2, "keep_every": 0},
        "data": {"workers": 0, "threads": 2},
    }
    process = start(
        command(
            folder, workdir, tmp_path, "--config.steps=100000", "--config.log.every=1", **changes
        )
    )
    try:
        wait_for_step(workdir, 5, process)
        stalls.enter_context(stalled_mount(folder))
        before = -1
        while before != (before := (workdir / "metrics.jsonl").stat().st_size):
            time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(stop_signals.GRACE + 60) == 0
    finally:
        stop(process)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        last = lines(workdir)[-1]["step"]
        assert checkpoints.latest() == last >= 5


def poison(monkeypatch, where, factor: float) -> None:
    """Multiplies the noisy images of the batches that `where` chooses; batches count from 1."""
    put, count = sharding.put_batch, iter(range(1, 1_000_000))

    def put_batch(batch, mesh):
        if where(next(count)):
            batch["denoise50"]["lq"] = batch["denoise50"]["lq"] * np.float32(factor)
        return put(batch, mesh)

    monkeypatch.setattr(sharding, "put_batch", put_batch)


@pytest.mark.parametrize(
    ("factor", "optim", "said"),
    [
        (np.nan, {}, "loss or gradient is not finite (tasks: denoise50; images: "),
        (1e3, {"max_spike": 3.0}, "is a spike (tasks: sr2, denoise50; images: "),
    ],
    ids=["nan", "spike"],
)
def test_a_poisoned_batch_changes_nothing_but_counters(
    monkeypatch, photographs, tmp_path, caplog, factor, optim, said
):
    poison(monkeypatch, lambda step: step in (4, 5), factor)
    changes = {
        "steps": 6,
        "checkpoint": {"every": 1, "keep": 9},
        "optim": {**optim, "max_skipped": 3},
    }
    with caplog.at_level(logging.WARNING):
        assert pretrain(config(photographs, **changes), str(tmp_path)).finished
    before, after, last = (arrays(tmp_path, step) for step in (3, 5, 6))
    assert_same(before, after)
    assert any((before[key] != last[key]).any() for key in before)
    warned = [record.getMessage() for record in caplog.records if said in record.getMessage()]
    assert (
        len(warned) == 2 and warned[0].startswith("step 4: ") and warned[1].endswith("(2 in a row)")
    )
    assert ".png" in warned[0]
    assert lines(tmp_path)[-1]["skipped"] == 2


def test_poison_without_end_stops_the_run_which_keeps_what_was_good(
    monkeypatch, photographs, tmp_path
):
    poison(monkeypatch, lambda step: step > 3, np.nan)
    changes = {"checkpoint": {"every": 1, "keep": 9}, "optim": {"max_skipped": 3}}
    with pytest.raises(
        RunError,
        match=r"3 steps in a row changed nothing, up to step 6: .*tasks: denoise50; images: "
        r"\d.png",
    ):
        pretrain(config(photographs, **changes), str(tmp_path))
    assert_same(arrays(tmp_path, 3), arrays(tmp_path, 5))


def test_the_guard_against_spikes_follows_the_loss():
    usual, taken = jnp.inf, []
    for loss in [9.0, 8.0, 30.0, 7.0, np.nan, np.inf, 24.0, 20.0]:
        good, usual = optim.spike_guard(
            jnp.float32(loss), jnp.isfinite(loss), jnp.float32(usual), 2.5
        )
        taken.append(bool(good))
    assert taken == [True, True, False, True, False, False, False, True]
    assert float(usual) == pytest.approx(((9 * 0.99 + 0.08) * 0.99 + 0.07) * 0.99 + 0.2, rel=1e-6)


OTHERS = [
    ("tasks", ["sr2", "denoise30"], r"tasks: .*denoise50.* -> .*denoise30"),
    ("tasks", ["denoise50", "sr2"], r"tasks: .*sr2.*denoise50.* -> .*denoise50.*sr2"),
    ("fewer", None, r"the data's pictures: 6 -> 5"),
    (
        "version",
        pipeline.DATA_VERSION + 1,
        rf"the data's version: {pipeline.DATA_VERSION} -> {pipeline.DATA_VERSION + 1}",
    ),
]


def test_another_config_is_refused_unless_forced(photographs, tmp_path, caplog):
    pretrain(config(photographs, steps=2), str(tmp_path))
    for key, other, said in OTHERS:
        with (
            pytest.raises(ConfigError, match=rf"--force-config:(\n  .*)*\n  {said}"),
            pytest.MonkeyPatch.context() as patch,
        ):
            if key == "fewer":
                other = shutil.copytree(photographs, tmp_path / "fewer")
                (other / "0.png").unlink()
            elif key == "version":
                patch.setattr(pipeline, "DATA_VERSION", other)
            changes = {key: other} if key == "tasks" else {}
            pretrain(
                config(other if key == "fewer" else photographs, steps=3, **changes), str(tmp_path)
            )
    changed = config(photographs, steps=3, seed=5)
    with pytest.raises(ConfigError, match=r"--force-config:\n  seed: 0 -> 5$"):
        pretrain(changed, str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert pretrain(changed, str(tmp_path), force=True).step == 3
    assert "with another config, as --force-config asks:\n  seed: 0 -> 5" in caplog.text
    assert json.loads((tmp_path / "config.json").read_text())["config"]["seed"] == 5


def test_damaged_files_of_a_run_are_mended(photographs, tmp_path, caplog):
    pretrain(config(photographs, steps=3, log={"every": 1}), str(tmp_path))
    path, record = tmp_path / "metrics.jsonl", tmp_path / "config.json"
    path.write_bytes(
        path.read_bytes().replace(b'{"step": 2', b'{"st\xe5p": 2') + b'{"step": 4, "lo'
    )
    written = json.loads(record.read_text())["config"]
    record.write_bytes(record.read_bytes().replace(b'"seed": 0', b'"seed": 1'))
    assert pretrain(config(photographs, steps=5, log={"every": 1}), str(tmp_path)).step == 5
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3, 4, 5]
    assert json.loads(record.read_text())["config"] == {**written, "steps": 5}
    assert "1 damaged lines of metrics are skipped" in caplog.text
    assert "config.json is damaged (its checksum does not match)" in caplog.text


def test_the_step_is_compiled_once_in_a_run(monkeypatch, photographs, tmp_path):
    made, compile_step = [], setup.compile_step
    monkeypatch.setattr(
        setup, "compile_step", lambda *args: made.append(compile_step(*args)) or made[-1]
    )
    pretrain(
        config(
            photographs, steps=4, evaluate={"every": 2, "pictures": 1, "batch": 4, "overlap": 4}
        ),
        str(tmp_path),
    )
    pretrain(config(photographs, steps=6), str(tmp_path))
    assert [step._cache_size() for step in made] == [1, 1]


@contextlib.contextmanager
def disk(folder: pathlib.Path, *options: str) -> Iterator[pathlib.Path]:
    """Mounts a small file system on a folder."""
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], capture_output=True, timeout=60
    ).returncode:
        pytest.skip("needs permission to mount a tmpfs")
    try:
        yield folder
    finally:
        mounts = [line.split()[1] for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
        for mount in reversed([mount for mount in mounts if mount.startswith(str(folder))]):
            subprocess.run(["umount", "-l", mount], check=False, timeout=60)


def test_a_folder_that_cannot_be_written_is_said(photographs, tmp_path):
    with disk(tmp_path / "disk", "-o", "ro") as there, pytest.raises(OSError, match="Read-only"):
        pretrain(config(photographs), str(there / "run"))


def fill(workdir: pathlib.Path) -> None:
    with open(workdir.parent / "ballast", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def make_room(workdir: pathlib.Path) -> None:
    (workdir.parent / "ballast").unlink()


def make_read_only(workdir: pathlib.Path) -> None:
    """Mounts a folder read-only over itself; this does not affect files that are open already."""
    subprocess.run(["mount", "--bind", workdir, workdir], check=True, timeout=60)
    subprocess.run(["mount", "-o", "remount,bind,ro", workdir], check=True, timeout=60)


def make_writable(workdir: pathlib.Path) -> None:
    subprocess.run(["umount", "-l", workdir], check=True, timeout=60)


FAULTS = (
    (fill, make_room, "No space left"),
    (make_read_only, make_writable, "Read-only file system"),
)


@pytest.mark.slow
def test_a_disk_that_fails_in_the_middle_of_a_run(photographs, tmp_path):
    """The failure is logged at the next save, and the run continues.

    It saves again as soon as that is possible, and older checkpoints stay intact.
    """
    with (
        disk(tmp_path / "disk", "-o", "size=24m") as there,
        open(tmp_path / "stderr", "w") as stderr,
    ):
        workdir = there / "run"
        # Without keep_every, since checkpoints that are kept forever would fill the disk.
        changes = {
            "checkpoint": {"every": 5, "keep": 2, "keep_every": 0, "max_failed": 1000},
            "evaluate": {"every": 10, "pictures": 1, "batch": 4, "overlap": 4},
        }
        run = command(
            photographs,
            workdir,
            tmp_path,
            "--config.steps=100000",
            "--config.log.every=1",
            **changes,
        )
        process = subprocess.Popen(
            run, stderr=stderr, stdout=subprocess.DEVNULL, start_new_session=True
        )
        try:
            # The save at step 10 begins after the one at step 5 has ended.
            wait_for_step(workdir, 11, process)
            for break_it, mend_it, why in FAULTS:
                begun = len((tmp_path / "stderr").read_text())
                break_it(workdir)
                kept = {
                    int(path.name)
                    for path in (workdir / "checkpoints").iterdir()
                    if path.name.isdigit()
                }
                whole = {step: arrays(workdir, step) for step in kept}
                since = functools.partial(said_since, tmp_path / "stderr", begun)
                wait_until(
                    lambda since=since: (
                        since().count("; the run continues") > 3
                        and ".png could not be written: " in since()
                    ),
                    process,
                )
                for step in kept:
                    assert_same(arrays(workdir, step), whole[step])
                mend_it(workdir)
                told = re.findall(r"checkpoint (\d+) could not be saved in \S+: (.*);", since())
                failed = [int(step) for step, _ in told]
                assert failed == list(range(max(kept) + 5, failed[-1] + 5, 5))
                # A thread of the save before may still write into the folder that is removed.
                assert why in told[0][1] and all(
                    why in cause or "Directory not empty" in cause for _, cause in told
                )
                wait_until(
                    lambda kept=kept: (
                        not kept & {int(p.name) for p in (workdir / "checkpoints").glob("*[0-9]")}
                    ),
                    process,
                )
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, "it does not end"
        finally:
            stop(process)
        assert "Traceback" not in said_since(tmp_path / "stderr", 0)
        steps = [line["step"] for line in lines(workdir) if "loss" in line]
        assert steps == sorted(set(steps))
        with Checkpoints(workdir / "checkpoints") as checkpoints:
            assert checkpoints.read_meta()["step"] == checkpoints.latest() == steps[-1] > failed[-1]


def said_since(file: pathlib.Path, begun: int) -> str:
    return file.read_text()[begun:]


def wait_until(so: Callable[[], bool], process: subprocess.Popen, limit: float = 240) -> None:
    end = time.monotonic() + limit
    while not so():
        assert process.poll() is None and time.monotonic() < end, process.poll()
        time.sleep(0.05)


def kill_often(photographs: pathlib.Path, folder: pathlib.Path, kills: int, seed: int) -> None:
    """Kills a run at random moments, many of them during a save, and resumes it each time.

    In the end it equals an uninterrupted run, to the bit.
    """
    changes = {
        "steps": 800,
        "optim": {"schedule_steps": 800},
        "checkpoint": {"every": 2, "keep": 2, "keep_every": 0},
    }
    whole = folder / "whole"
    assert pretrain(config(photographs, **changes), str(whole)).finished
    rng, workdir, in_a_save = random.Random(seed), folder / "run", 0
    run = command(photographs, workdir, folder, "--config.log.every=1", **changes)
    reached = 0
    for kill in range(kills):
        process = start(run)
        try:
            wait_for_step(workdir, reached + 1, process)
            time.sleep(rng.uniform(0, 0.4))
            assert process.poll() is None, f"kill {kill} had nothing to kill"
        finally:
            stop(process)
        in_a_save += any((workdir / "checkpoints").glob("*tmp*"))
        reached = lines(workdir)[-1]["step"]
    print(f"{kills} kills, {in_a_save} of them in a save")
    assert in_a_save >= kills // 5
    assert pretrain(config(photographs, **changes), str(workdir)).finished
    assert_same(arrays(workdir, 800), arrays(whole, 800))
    steps = [line["step"] for line in lines(workdir)]
    assert steps == sorted(set(steps)) and steps[-1] == 800


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_twenty_random_kills_change_nothing(photographs, tmp_path):
    kill_often(photographs, tmp_path, kills=20, seed=int(os.environ.get("IPT_SEED", "0")))
