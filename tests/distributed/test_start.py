"""Runs on two processes with two devices each, compared with one process with four or one."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import training
from groups import free_port
from training import arrays, assert_same, make_photographs, settings, write_config

from ipt_jax.checkpoints.checkpoints import Checkpoints
from ipt_jax.config.loading import complete
from ipt_jax.train.loop import pretrain

pytest.importorskip("skimage", reason="needs scikit-image's photographs")

# Seconds that a process may take; on an idle machine it takes about 20.
LIMIT = 400
STEPS = 6
CHANGES = {
    "devices": 0,
    "batch_size": 16,
    "steps": STEPS,
    "checkpoint": {"every": 1, "keep": 20},
    "log": {"every": 1},
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> pathlib.Path:
    return make_photographs(tmp_path_factory.mktemp("photographs"))


class Pair:
    """Two processes that train, with two simulated devices each; both are killed at the end."""

    def __init__(
        self,
        folder: pathlib.Path,
        workdir: pathlib.Path,
        home: pathlib.Path,
        *flags: str,
        only=(0, 1),
        extra=None,
    ):
        home.mkdir(parents=True, exist_ok=True)
        file = write_config(home / "config.py", settings(folder, **CHANGES))
        self.processes, self.files, port = {}, {}, free_port()
        environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
        environment["PYTHONFAULTHANDLER"] = "1"
        # These are the flags of conftest.py.
        flags_of_xla = "--xla_backend_optimization_level=0 --xla_cpu_multi_thread_eigen=false"
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=2 {flags_of_xla}"
        base = [
            sys.executable,
            "-m",
            "ipt_jax",
            "pretrain",
            f"--config={file}",
            f"--workdir={workdir}",
            *flags,
        ]
        for i in only:
            place = [f"--coordinator=127.0.0.1:{port}", "--num-processes=2", f"--process-id={i}"]
            self.files[i] = open(home / f"log{i}", "w+")  # noqa: SIM115  closed at the end
            self.processes[i] = subprocess.Popen(
                [*base, *place, *(extra or {}).get(i, [])],
                stdout=subprocess.DEVNULL,
                stderr=self.files[i],
                env=environment,
            )

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()
        for file in self.files.values():
            file.close()

    def codes(self, limit: float = LIMIT) -> dict[int, int]:
        end = time.monotonic() + limit
        try:
            return {
                i: p.wait(timeout=max(1, end - time.monotonic())) for i, p in self.processes.items()
            }
        except subprocess.TimeoutExpired:
            # Python's fault handler writes the stack of each thread into the logs.
            for process in self.processes.values():
                process.send_signal(signal.SIGABRT)
            time.sleep(2)
            pytest.fail(f"still running after {limit:.0f} s\n{self.all_said()}")

    def said(self, i: int) -> str:
        return pathlib.Path(self.files[i].name).read_text()

    def all_said(self) -> str:
        return "\n".join(f"--- {i}\n{self.said(i)}" for i in self.processes)

    def wait_for_step(self, workdir: pathlib.Path, step: int) -> None:
        end = time.monotonic() + LIMIT
        while not any(line["step"] >= step for line in lines(workdir)):
            assert time.monotonic() < end and all(
                p.poll() is None for p in self.processes.values()
            ), self.all_said()
            time.sleep(0.05)


def lines(workdir: pathlib.Path) -> list[dict]:
    """Returns the lines of the steps, without those of evaluations."""
    return [line for line in training.lines(workdir) if "loss" in line]


def close(a: dict, b: dict, since: dict, share: float) -> None:
    """Checks that two sets of arrays differ by at most a share of their change since a third."""
    assert a.keys() == b.keys() == since.keys() and len(a) > 20
    moved = np.sqrt(sum(np.sum((b[k] - since[k]) ** 2, dtype=float) for k in a))
    apart = np.sqrt(sum(np.sum((a[k] - b[k]) ** 2, dtype=float) for k in a))
    assert moved > 0 and apart <= share * moved, apart / moved


def part(workdir: pathlib.Path, step: int, name: str) -> dict[str, np.ndarray]:
    return {
        k: v
        for k, v in arrays(workdir, step).items()
        if k.startswith(name + "/") and v.dtype == np.float32
    }


@pytest.fixture(scope="module")
def pair(photographs, tmp_path_factory):
    """An uninterrupted run of two processes."""
    home = tmp_path_factory.mktemp("pair")
    with Pair(photographs, home / "run", home) as run:
        assert run.codes() == {0: 0, 1: 0}, run.all_said()
        said = run.said(0), run.said(1)
    return home / "run", said


@pytest.fixture(scope="module", params=[4, 1])
def single(request, photographs, tmp_path_factory):
    """A run of this process alone, with four devices or one."""
    workdir = tmp_path_factory.mktemp(f"single{request.param}") / "run"
    assert pretrain(
        complete(settings(photographs, **(CHANGES | {"devices": request.param}))), str(workdir)
    ).finished
    return workdir


def test_only_process_0_speaks(pair):
    _, (first, second) = pair
    assert "processes 2" in first and "done: 6 steps" in first and f"step {STEPS}/{STEPS}" in first
    assert not [line for line in second.splitlines() if "Gloo" not in line], second


def test_two_processes_compute_what_one_does(pair, single):
    """The first loss and gradient agree to 1e-5, the parameters to 1e-3 of their change.

    The gradient is Adam's first moment after one step.
    """
    workdir, _ = pair
    ours, theirs = lines(workdir), lines(single)
    assert (
        [line["step"] for line in ours]
        == [line["step"] for line in theirs]
        == list(range(1, STEPS + 1))
    )
    for key in ("loss", "l1/sr2", "l1/denoise50", "contrastive", "grad_norm"):
        assert ours[0][key] == pytest.approx(theirs[0][key], rel=1e-5), key
    # Other batches would differ by far more
    for a, b in zip(ours, theirs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
    a, b = (part(path, 1, "moments") for path in (workdir, single))
    first = {k: v for k, v in b.items() if "/mu/" in k}
    close({k: a[k] for k in first}, first, {k: np.zeros_like(v) for k, v in first.items()}, 1e-5)
    a, b, since = (
        part(workdir, STEPS, "params"),
        part(single, STEPS, "params"),
        part(single, 1, "params"),
    )
    close(a, b, since, 1e-3)


def test_a_run_goes_on_on_another_topology(pair, single, photographs, tmp_path):
    """The run starts on two processes and ends on one device."""
    workdir = tmp_path / "run"
    shutil.copytree(pair[0], workdir)
    for step in range(4, STEPS + 1):
        shutil.rmtree(workdir / "checkpoints" / str(step))
    assert pretrain(
        complete(settings(photographs, **(CHANGES | {"devices": 1}))), str(workdir)
    ).finished
    for a, b in zip(lines(workdir), lines(single), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
    close(
        part(workdir, STEPS, "params"),
        part(single, STEPS, "params"),
        part(single, 1, "params"),
        1e-3,
    )


@pytest.mark.slow
def test_a_signal_to_one_of_two_stops_both_and_they_go_on_bit_identical(
    pair, photographs, tmp_path
):
    workdir = tmp_path / "run"
    with Pair(
        photographs,
        workdir,
        tmp_path / "a",
        "--config.steps=100000",
        extra={1: ["--stopped-code=75"]},
    ) as run:
        run.wait_for_step(workdir, 1)
        run.processes[1].send_signal(signal.SIGTERM)
        assert run.codes() == {0: 0, 1: 75}, run.all_said()
        assert (
            "stopped by SIGTERM to process 1 at step" in run.said(0)
            and "Traceback" not in run.all_said()
        )
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        stopped = checkpoints.latest()
    assert f"at step {stopped} of 100000, saved" in (tmp_path / "a" / "log1").read_text()
    later = max(STEPS, stopped + 2)
    with Pair(photographs, workdir, tmp_path / "b", f"--config.steps={later}") as run:
        assert run.codes() == {0: 0, 1: 0}, run.all_said()
    if stopped < STEPS:
        assert_same(arrays(workdir, STEPS), arrays(pair[0], STEPS))
    assert_same(arrays(workdir, min(stopped, STEPS)), arrays(pair[0], min(stopped, STEPS)))


@pytest.mark.slow
def test_a_signal_to_one_of_two_gives_up_the_final_evaluation_of_both(photographs, tmp_path):
    workdir = tmp_path / "run"
    flags = [
        "--config.steps=2",
        "--config.evaluate.every=2",
        "--config.evaluate.pictures=2",
        "--config.evaluate.batch=4",
    ]
    # This overlap makes thousands of tiles of an image.
    slow = [*flags, "--config.evaluate.overlap=15", "--stopped-code=75"]
    with Pair(photographs, workdir, tmp_path / "a", *slow) as run:
        run.wait_for_step(workdir, 2)
        run.processes[1].send_signal(signal.SIGTERM)
        assert run.codes() == {0: 75, 1: 75}, run.all_said()
        assert "stopped by SIGTERM to process 1 at step 2 of 2, saved" in run.said(0)
        assert "Traceback" not in run.all_said()
    assert not (workdir / "evaluation").exists() and not (workdir / "lock").exists()
    with Pair(photographs, workdir, tmp_path / "b", *flags, "--config.evaluate.overlap=4") as run:
        assert run.codes() == {0: 0, 1: 0}, run.all_said()
    assert (workdir / "evaluation" / "00000002.txt").exists()


def test_a_missing_process_is_named_and_not_waited_for_long(photographs, tmp_path):
    for there, message in (
        (0, "process 1 of 2 did not come within 2 s"),
        (1, "process 0 of 2 did not come within 2 s"),
    ):
        with Pair(
            photographs, tmp_path / "run", tmp_path / str(there), "--start-timeout=2", only=[there]
        ) as run:
            assert run.codes(60) == {there: 1}
            said = [line for line in run.said(there).splitlines() if line.startswith("ipt:")]
            assert len(said) == 1 and message in said[0] and "Traceback" not in run.said(there)
    assert not (tmp_path / "run").exists()


def test_processes_with_different_configs_are_refused(photographs, tmp_path):
    extra = {1: ["--config.optim.learning_rate=0.002", "--config.data.workers=1"]}
    with Pair(photographs, tmp_path / "run", tmp_path, extra=extra) as run:
        assert run.codes() == {0: 2, 1: 2}, run.all_said()
        for i in (0, 1):
            assert (
                "\n  config.optim.learning_rate: 0.001 on process 0, 0.002 on process 1\n"
                in run.said(i)
            )
            assert "workers" not in run.said(i) and "Traceback" not in run.said(i)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_processes_with_different_data_are_refused(photographs, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(photographs, other)
    (other / "0.png").unlink()
    with Pair(
        photographs, tmp_path / "run", tmp_path, extra={1: [f"--config.data.dir={other}"]}
    ) as run:
        assert run.codes() == {0: 2, 1: 2}, run.all_said()
        assert "data.pictures: 6 on process 0, 5 on process 1" in run.said(0)


@pytest.mark.slow
@pytest.mark.parametrize("dead", [0, 1])
def test_a_killed_process_ends_the_other_soon_and_the_run_goes_on(
    dead, pair, photographs, tmp_path
):
    workdir = tmp_path / "run"
    with Pair(photographs, workdir, tmp_path / "a", "--config.steps=100000") as run:
        run.wait_for_step(workdir, 2)
        run.processes[dead].kill()
        began = time.monotonic()
        codes = run.codes(60)
        said = run.said(1 - dead)
        assert time.monotonic() - began < 60
    assert codes[1 - dead] == 1, said
    assert f"process {dead} (" in said and "has gone" in said, said
    # Process 0 hosted JAX's service; JAX's own answer to its end is an abort with a stack.
    assert "Traceback" not in said and "stack trace" not in said, said
    with Pair(photographs, workdir, tmp_path / "b") as run:
        assert set(run.codes().values()) == {0}, run.all_said()
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        there = checkpoints.steps()
    assert 2 in there
    assert_same(arrays(workdir, min(there[-1], STEPS)), arrays(pair[0], min(there[-1], STEPS)))


@pytest.mark.slow
def test_an_error_in_one_process_ends_both(photographs, tmp_path):
    """The images of process 1 become unreadable while it trains."""
    own = tmp_path / "own"
    shutil.copytree(photographs, own)
    workdir = tmp_path / "run"
    with Pair(
        photographs,
        workdir,
        tmp_path,
        "--config.steps=100000",
        extra={1: [f"--config.data.dir={own}"]},
    ) as run:
        run.wait_for_step(workdir, 2)
        for file in own.iterdir():
            file.write_bytes(b"no picture")
        assert run.codes(120) == {0: 1, 1: 1}, run.all_said()
        assert "cannot be read" in run.said(1) or "no readable image" in run.said(1)
        assert (
            "process 1" in run.said(0)
            and "ended with" in run.said(0)
            and "Traceback" not in run.all_said()
        )


@pytest.mark.slow
def test_evaluation_and_init_from_on_two_processes(pair, photographs, tmp_path):
    flags = [
        "--config.evaluate.every=2",
        "--config.evaluate.pictures=2",
        "--config.evaluate.batch=4",
        "--config.steps=2",
    ]
    flags += ["--config.evaluate.overlap=4", f"--config.init_from={pair[0]}"]
    with Pair(photographs, tmp_path / "two", tmp_path, *flags) as run:
        assert run.codes() == {0: 0, 1: 0}, run.all_said()
    alone = {"devices": 1, "steps": 2, "init_from": str(pair[0])}
    alone["evaluate"] = {"every": 2, "pictures": 2, "batch": 4, "overlap": 4}
    outcome = pretrain(complete(settings(photographs, **(CHANGES | alone))), str(tmp_path / "one"))
    scores = training.lines(tmp_path / "two")[-1]
    assert scores["held_out/sr2/psnr_y"] == pytest.approx(outcome.scores["sr2"]["psnr_y"], abs=1e-3)
    assert scores["held_out/denoise50/psnr_y"] == pytest.approx(
        outcome.scores["denoise50"]["psnr_y"], abs=1e-3
    )
    assert sorted(p.name for p in (tmp_path / "two" / "evaluation").iterdir()) == [
        "00000002.png",
        "00000002.txt",
    ]
