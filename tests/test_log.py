"""Messages of the package's log that depend on time."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from ipt_jax import log


def test_what_is_waited_for_is_logged_again_and_again(monkeypatch, caplog):
    monkeypatch.setattr(log, "PATIENCE", 0.1)
    with caplog.at_level(logging.WARNING), log.waiting_for("the bucket"):
        end = time.monotonic() + 30
        while len(caplog.records) < 2 and time.monotonic() < end:
            time.sleep(0.01)
    assert len(caplog.records) >= 2
    assert caplog.records[0].getMessage() == "waiting for the bucket, 0 s so far"


def test_a_block_that_ends_in_time_logs_nothing_and_leaves_no_thread(caplog):
    with pytest.raises(KeyError), log.waiting_for("the bucket"):
        raise KeyError
    end = time.monotonic() + 10
    while any(t.name == "ipt-waiting" for t in threading.enumerate()) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(thread.name == "ipt-waiting" for thread in threading.enumerate())
    assert not caplog.records
