"""Signals: SIGHUP, and signals that arrive while the main thread runs no Python code."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

IN_C = """
import ctypes, signal
from ipt_jax.distributed.process_group import ProcessGroup
from ipt_jax.train.stop_signals import StopSignals

with StopSignals(ProcessGroup()):
    # Another thread receives the signal, so it does not interrupt the call below.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    print("ready", flush=True)
    ctypes.CDLL(None).sleep(120)
"""


BACK_FROM_C = """
import ctypes, signal, time
from ipt_jax.distributed.process_group import ProcessGroup
from ipt_jax.train.stop_signals import StopSignals

with StopSignals(ProcessGroup()) as stop:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    print("ready", flush=True)
    ctypes.CDLL(None).sleep(5)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # Python runs its handlers here.
    print("asked" if not stop.impatient() else "interrupted", flush=True)
    try:
        time.sleep(WAIT)
    except KeyboardInterrupt:
        print("interrupted", stop.impatient(), flush=True)
"""


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_twice_while_the_main_thread_runs_no_python_interrupts_after_it(times):
    code = BACK_FROM_C.replace("WAIT", "60" if times == 2 else "3")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        for _ in range(times):
            time.sleep(1)
            process.send_signal(signal.SIGINT)
        assert process.wait(45) == 0
        assert process.stdout.read().splitlines() == ["asked"] + ["interrupted True"] * (times - 1)
    finally:
        process.kill()
        process.wait(60)
        process.stdout.close()


def test_a_second_sigterm_ends_a_process_whose_main_thread_runs_no_python():
    process = subprocess.Popen([sys.executable, "-c", IN_C], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        # To be in the call
        time.sleep(2)
        process.terminate()
        time.sleep(1)
        assert process.poll() is None
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait(60)
        process.stdout.close()


STEPS = """
import time
from ipt_jax import log, messages
from ipt_jax.distributed.process_group import ProcessGroup
from ipt_jax.train.stop_signals import StopSignals

log.setup()
with StopSignals(ProcessGroup()) as stop:
    messages.say("ready")
    step = 0
    while step < 600 and not stop.requested(step):
        time.sleep(0.1)
        step += 1
    messages.say(f"saving after {stop.name}")
    time.sleep(3)
messages.say("saved")
"""


@pytest.mark.parametrize(
    ("signals", "end"),
    [
        ([signal.SIGHUP], ["saving after SIGHUP", "saved"]),
        # Closing a terminal may send SIGHUP twice; a shutdown sends SIGTERM along with it.
        ([signal.SIGHUP, signal.SIGHUP], ["saving after SIGHUP", "saved"]),
        ([signal.SIGHUP, signal.SIGTERM], ["saving after SIGHUP", "saved"]),
        ([signal.SIGTERM, signal.SIGHUP], ["saving after SIGTERM", "saved"]),
        ([signal.SIGHUP, signal.SIGINT], ["saving after SIGHUP", "saved"]),
        ([signal.SIGHUP, signal.SIGTERM, signal.SIGTERM], ["saving after SIGHUP"]),
    ],
    ids=lambda value: "-".join(getattr(one, "name", "") for one in value),
)
def test_sighup_saves_and_is_never_the_second_signal(signals, end):
    process = subprocess.Popen([sys.executable, "-c", STEPS], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        for number in signals:
            process.send_signal(number)
            time.sleep(0.7)
        assert process.stdout.read().splitlines() == end
        process.wait(30)
        assert (process.returncode == 0) == (end[-1] == "saved")
    finally:
        process.kill()
        process.wait(60)
        process.stdout.close()


def test_sighup_is_ignored_under_nohup():
    run = ["nohup", sys.executable, "-c", STEPS]
    process = subprocess.Popen(run, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read().splitlines() == ["saving after SIGTERM", "saved"]
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait(60)
        process.stdout.close()
