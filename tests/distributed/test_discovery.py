"""How a process finds out which one of a run it is: flags, environment variables, clusters."""

from __future__ import annotations

import socket

import pytest

from ipt_jax.distributed.discovery import ProcessSpec, StartOptions, find_process
from ipt_jax.errors import StartError

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
        assert find_process(StartOptions(), environment) is None
    assert find_process(StartOptions(num_processes="1"), {"TPU_WORKER_HOSTNAMES": "a,b"}) is None


def test_flags_and_environment():
    assert find_process(StartOptions(**GIVEN), {}) == ProcessSpec("10.0.0.2:8476", 4, 3)
    assert ProcessSpec("10.0.0.2:8476", 4, 3).address == ("10.0.0.2", 8477) and ProcessSpec(
        "[::1]:65535", 2, 0
    ).address == ("::1", 65534)
    environment = {"IPT_COORDINATOR": "a:1", "IPT_NUM_PROCESSES": "2", "IPT_PROCESS_ID": "0"}
    assert find_process(StartOptions(), environment) == ProcessSpec("a:1", 2, 0)
    assert find_process(StartOptions(process_id="1"), environment) == ProcessSpec("a:1", 2, 1)
    jax_names = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
    assert find_process(StartOptions(), jax_names) == ProcessSpec("a:1", 2, 1)


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
        find_process(StartOptions(**(GIVEN | changes)), {})


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
    assert find_process(StartOptions(), slurm) == ProcessSpec("node03:61447", 8, 5, [1])
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
    assert find_process(StartOptions(), pod) == ProcessSpec("localhost:8482", 4, 3)
