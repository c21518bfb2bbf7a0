"""The filter of log lines that Orbax causes."""

from __future__ import annotations

import logging

import pytest

from ipt_jax.checkpoints import orbax_workarounds


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            "Future exception was never retrieved\nfuture: <Future finished exception=OSError(30)>",
            False,
        ),
        (
            "Task was destroyed but it is pending! task: <Task coro=<f() running at "
            "/x/orbax/checkpoint/a.py:1>>",
            False,
        ),
        ("Executing <Handle> took 0.2 seconds", True),
    ],
)
def test_what_orbax_drops_is_not_told(message, shown):
    line = logging.LogRecord(
        "asyncio", logging.ERROR, "/x/asyncio/base_events.py", 1, message, (), None
    )
    assert orbax_workarounds.not_of_orbax(line) is shown
