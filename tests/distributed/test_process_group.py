"""The line between processes, with threads in their place; and where a process finds its place."""

from __future__ import annotations

import argparse
import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ipt_jax.distributed import discovery, rendezvous
from ipt_jax.distributed.discovery import ProcessSpec
from ipt_jax.distributed.process_group import ProcessGroup
from ipt_jax.errors import ConfigError, Lost, StartError
from ipt_jax.train.identity import check_same


def free_port() -> int:
    """A free port whose successor is free, too."""
    while True:
        with contextlib.suppress(OSError), socket.create_server(("", 0)) as first:
            port = first.getsockname()[1]
            with socket.create_server(("", port + 1)):
                return port


def lines(count: int) -> list[ProcessGroup]:
    address = ("127.0.0.1", free_port())
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda i: rendezvous.connect(address, i, count, 30), range(count)))


def all_do(what, *each) -> list:
    """What each call gives, or the error that it raised; all at once."""

    def one(arguments):
        try:
            return what(*arguments)
        except (Lost, ConfigError) as error:
            return error

    with ThreadPoolExecutor(len(each)) as pool:
        return list(pool.map(one, each))


@pytest.fixture(autouse=True)
def no_exit(monkeypatch):
    """A process that is stuck is ended; threads of this one must not be."""
    monkeypatch.setattr(ProcessGroup, "_end_soon", lambda self: None)


def test_alone_nothing_waits():
    line = ProcessGroup()
    assert line.gather("x", 3) == [3] and line.trouble(60) == ""
    line.ask_stop(7, "SIGTERM")
    assert line.stops(7) and line.stopped_by == "SIGTERM"
    line.leave()


def test_all_get_all_values_in_order():
    three = lines(3)
    for turn in range(3):
        assert (
            all_do(
                lambda line, turn: line.gather("x", [line.index, turn]), *((x, turn) for x in three)
            )
            == [[[i, turn] for i in range(3)]] * 3
        )
    assert all_do(ProcessGroup.leave, *((x,) for x in three)) == [None] * 3
    time.sleep(0.2)
    assert not any(x.trouble(0) for x in three)


def test_who_is_late_is_named():
    three = lines(3)
    first = all_do(lambda line: line.gather("x", 0, limit=0.5), (three[0],), (three[1],))
    assert "no word from process 2 for 0 s at 'x'" in str(first[0]), first


@pytest.mark.parametrize("who", [0, 1, 2])
def test_all_stop_after_the_same_step_which_none_has_passed(who):
    """Steps as in training: none is finished before all have begun it, and a metric is read a step
    late.
    """
    three, begun = lines(3), [0, 0, 0]
    moved = threading.Condition()

    def train(line: ProcessGroup) -> int:
        step = 0
        while not line.stops(step):
            with moved:
                begun[line.index] = step = step + 1
                moved.notify_all()
                assert moved.wait_for(lambda wanted=step - 1: min(begun) >= wanted, timeout=30)
            if line.index == who and step == 20:
                line.ask_stop(step, "SIGTERM")
        return step

    assert all_do(train, *((x,) for x in three)) == [22] * 3
    assert {x.stopped_by for x in three} == {f"SIGTERM to process {who}"}


def test_two_that_ask_at_once_agree():
    two = lines(2)
    all_do(lambda line, step: line.ask_stop(step, "SIGTERM"), (two[0], 10), (two[1], 11))
    assert two[0].stop_at == two[1].stop_at and two[0].stop_at in (12, 13)


def test_one_that_dies_is_known_at_once():
    three = lines(3)
    three[2]._peers[0].connection.shutdown(socket.SHUT_RDWR)
    for line in three[:2]:
        assert "process 2" in line.trouble(10) and "has gone" in line.trouble()
        with pytest.raises(Lost, match="has gone"):
            line.stops(3)
    with pytest.raises(Lost, match="process 2"):
        three[0].gather("x", 1)


def test_an_error_reaches_the_others():
    three = lines(3)
    three[1].fault("no picture can be read")
    for line in (three[0], three[2]):
        assert (
            line.trouble(10).startswith("process 1 (")
            and "no picture can be read" in line.trouble()
        )


def test_an_error_at_the_very_end_reaches_who_is_about_to_leave():
    two = lines(2)
    with ThreadPoolExecutor(1) as pool:
        leaving = pool.submit(two[1].leave)
        time.sleep(0.1)
        # Not to wait for it
        two[0]._gone.add(1)
        two[0].fault("no space left")
        with pytest.raises(Lost, match=r"process 0 .* ended with: no space left"):
            leaving.result(timeout=20)


def test_a_missing_process_is_named_on_all():
    address = ("127.0.0.1", free_port())
    found = all_do(rendezvous.connect, (address, 0, 4, 2.0), (address, 2, 4, 8.0))
    assert [str(e) for e in found] == ["processes 1, 3 of 4 did not come within 2 s"] * 2
    with pytest.raises(
        Lost,
        match=r"process 0 of 2 did not come within 1 s: nothing at 127.0.0.1:\d+ \(Connection "
        r"refused\)",
    ):
        rendezvous.connect(address, 1, 2, 1.0)


def test_one_number_twice_and_another_count():
    address = ("127.0.0.1", free_port())
    found = all_do(
        rendezvous.connect, (address, 0, 3, 10.0), (address, 1, 3, 10.0), (address, 1, 3, 10.0)
    )
    assert all("two processes have the number 1" in str(e) for e in found)
    found = all_do(rendezvous.connect, (address, 0, 3, 10.0), (address, 1, 4, 10.0))
    assert all("expects 4 processes, process 0 expects 3" in str(e) for e in found)


def test_strangers_do_not_count():
    address = ("127.0.0.1", free_port())

    def stranger() -> None:
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'{"ipt_process": "x"}\n', b""):
            for _ in range(100):
                with (
                    contextlib.suppress(OSError),
                    socket.create_connection(address, timeout=1) as knock,
                ):
                    knock.sendall(words)
                    break
                time.sleep(0.02)

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(rendezvous.connect, address, 0, 2, 30)
        pool.submit(stranger).result()
        second = pool.submit(rendezvous.connect, address, 1, 2, 30)
        assert first.result().count == second.result().count == 2


def test_what_differs_is_listed_with_the_processes():
    three = lines(3)
    configs = [
        {"seed": 0, "data": {"dir": str(i)}, "optim": {"b1": 0.9 if i < 2 else 0.8}}
        for i in range(3)
    ]
    found = all_do(
        lambda line: check_same(line, "config", configs[line.index]), *((x,) for x in three)
    )
    assert len({str(e) for e in found}) == 1
    assert str(found[0]).splitlines()[1:] == [
        "  config.optim.b1: 0.9 on process 0, 0.8 on process 2"
    ]


def options(**given: str) -> argparse.Namespace:
    return argparse.Namespace(
        **({"coordinator": "", "num_processes": "", "process_id": "", "start_timeout": ""} | given)
    )


GIVEN = {"coordinator": "10.0.0.2:8476", "num_processes": "4", "process_id": "3"}


def test_a_laptop_is_alone_without_a_look_at_the_network(monkeypatch):
    monkeypatch.setattr(
        socket, "create_connection", lambda *a, **k: pytest.fail("looked at the network")
    )
    for environment in (
        {},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
        {"TPU_WORKER_HOSTNAMES": "localhost"},
        {"JAX_COORDINATOR_ADDRESS": "a:1"},
    ):
        assert discovery.find_process(options(), environment) is None
    assert (
        discovery.find_process(options(num_processes="1"), {"TPU_WORKER_HOSTNAMES": "a,b"}) is None
    )


def test_flags_and_environment():
    assert discovery.find_process(options(**GIVEN), {}) == ProcessSpec("10.0.0.2:8476", 4, 3)
    assert ProcessSpec("10.0.0.2:8476", 4, 3).line == ("10.0.0.2", 8477) and ProcessSpec(
        "[::1]:65535", 2, 0
    ).line == ("::1", 65534)
    environment = {"IPT_COORDINATOR": "a:1", "IPT_NUM_PROCESSES": "2", "IPT_PROCESS_ID": "0"}
    assert discovery.find_process(options(), environment) == ProcessSpec("a:1", 2, 0)
    assert discovery.find_process(options(process_id="1"), environment) == ProcessSpec("a:1", 2, 1)
    jax_names = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    assert discovery.find_process(options(), jax_names) == ProcessSpec("a:1", 2, 1)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"process_id": ""}, "missing: --process-id"),
        ({"coordinator": "", "num_processes": ""}, "missing: --coordinator, --num-processes"),
        ({"coordinator": "10.0.0.2"}, "must be HOST:PORT"),
        ({"coordinator": "10.0.0.2:99999"}, "must be HOST:PORT"),
        ({"num_processes": "four"}, "--num-processes must be a number"),
        ({"process_id": "4"}, "--process-id=4 must be below --num-processes=4"),
    ],
)
def test_wrong_flags(changes, message):
    with pytest.raises(StartError, match=message):
        discovery.find_process(options(**(GIVEN | changes)), {})


def test_clusters_are_recognised_by_their_variables(monkeypatch):
    slurm = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "node[03-04]",
        "SLURM_NTASKS": "8",
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_NUM_NODES": "2",
    }
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    assert discovery.find_process(options(), slurm) == ProcessSpec("node03:61447", 8, 5, [1])
    pod = {
        "TPU_WORKER_HOSTNAMES": "localhost,b",
        "TPU_WORKER_ID": "1",
        "MEGASCALE_COORDINATOR_ADDRESS": "localhost:8080",
        "MEGASCALE_NUM_SLICES": "2",
        "MEGASCALE_SLICE_ID": "1",
    }
    for name, value in pod.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("jax._src.clusters.cloud_tpu_cluster.running_in_cloud_tpu_vm", True)
    monkeypatch.setattr("jax._src.clusters.cluster.running_in_cloud_tpu_vm", True)
    assert discovery.find_process(options(), pod) == ProcessSpec("localhost:8482", 4, 3)
