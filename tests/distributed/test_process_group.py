"""Process groups whose processes are threads of the test."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from groups import all_do, make_groups, with_raw_process

from ipt_jax.distributed import process_group
from ipt_jax.distributed.process_group import ProcessGroup
from ipt_jax.errors import Lost


@pytest.fixture(autouse=True)
def no_exit(monkeypatch):
    """A group ends its process after a failure elsewhere, which must not happen to the test."""
    monkeypatch.setattr(process_group, "GRACE", 1e6)


def test_alone_nothing_waits():
    group = ProcessGroup()
    assert group.gather("x", 3) == [3] and group.trouble(60) == ""
    group.ask_stop(7, "SIGTERM")
    assert group.stops(7) and group.stopped_by == "SIGTERM"
    group.leave()


def test_all_get_all_values_in_order():
    three = make_groups(3)
    for turn in range(3):
        found = all_do(
            lambda group, turn: group.gather("x", [group.index, turn]),
            *((group, turn) for group in three),
        )
        assert found == [[[i, turn] for i in range(3)]] * 3
    assert all_do(ProcessGroup.leave, *((x,) for x in three)) == [None] * 3
    time.sleep(0.2)
    assert not any(x.trouble(0) for x in three)


def test_who_is_late_is_named():
    three = make_groups(3)
    first = all_do(lambda group: group.gather("x", 0, limit=0.5), (three[0],), (three[1],))
    assert "timed out after 0 s waiting for process 2 at barrier 'x'" in str(first[0]), first


@pytest.mark.parametrize("who", [0, 1, 2])
def test_all_stop_after_the_same_step_which_none_has_passed(who):
    """As in training, no step ends before all have begun it, and metrics are read one step late."""
    three, begun = make_groups(3), [0, 0, 0]
    moved = threading.Condition()

    def train(group: ProcessGroup) -> int:
        step = 0
        while not group.stops(step):
            with moved:
                begun[group.index] = step = step + 1
                moved.notify_all()
                assert moved.wait_for(lambda wanted=step - 1: min(begun) >= wanted, timeout=30)
            if group.index == who and step == 20:
                group.ask_stop(step, "SIGTERM")
        return step

    assert all_do(train, *((x,) for x in three)) == [22] * 3
    assert {x.stopped_by for x in three} == {f"SIGTERM to process {who}"}


def test_two_that_ask_at_once_agree():
    two = make_groups(2)
    all_do(lambda group, step: group.ask_stop(step, "SIGTERM"), (two[0], 10), (two[1], 11))
    assert two[0].stop_at == two[1].stop_at and two[0].stop_at in (12, 13)


def test_one_that_dies_is_known_at_once():
    with with_raw_process(3) as (groups, connection):
        connection.close()
        for group in groups:
            assert "process 2 (raw) has gone" in group.trouble(10)
            with pytest.raises(Lost, match="has gone"):
                group.stops(3)
        with pytest.raises(Lost, match="process 2"):
            groups[0].gather("x", 1)


def test_an_error_reaches_the_others():
    three = make_groups(3)
    three[1].fault("no picture can be read")
    for group in (three[0], three[2]):
        assert (
            group.trouble(10).startswith("process 1 (")
            and "no picture can be read" in group.trouble()
        )


def test_an_error_at_the_very_end_reaches_who_is_about_to_leave():
    two = make_groups(2)
    with ThreadPoolExecutor(1) as pool:
        leaving = pool.submit(two[1].leave)
        time.sleep(0.1)
        # Process 0 waits for the others to end, which threads do not.
        threading.Thread(target=two[0].fault, args=("no space left",), daemon=True).start()
        with pytest.raises(Lost, match=r"process 0 .* ended with: no space left"):
            leaving.result(timeout=20)


@pytest.mark.parametrize(
    "nonsense",
    [b"[" * 100_000, b'{"gather": "x"}', b'{"stop": 1e999}', b'{"answer": {}}', b"[1]", b"\xff"],
)
def test_a_process_that_sends_nonsense_has_gone(nonsense):
    with with_raw_process(2) as (groups, connection):
        connection.sendall(nonsense + b"\n")
        assert "process 1 (raw) has gone" in groups[0].trouble(10)


def test_texts_of_other_processes_are_escaped():
    with with_raw_process(2) as (groups, connection):
        connection.sendall(b'{"fault": "two\\nlines \\u001b[2J"}\n')
        assert groups[0].trouble(10) == "two\nlines \\x1b[2J"
