"""The shares of a run's time."""

from __future__ import annotations

import pytest

from ipt_jax.train import goodput
from ipt_jax.train.goodput import Goodput


def test_shares_are_those_of_the_blocks_and_add_up(monkeypatch):
    now = [100.0]

    def pass_by(seconds):
        now[0] += seconds

    monkeypatch.setattr(goodput.time, "perf_counter", lambda: now[0])
    found = Goodput()
    pass_by(1)
    with found.spent("waiting"):
        pass_by(2)
    found.started()
    with pytest.raises(ValueError), found.spent("saving"):
        pass_by(3)
        raise ValueError
    pass_by(4)
    # The wait before the first step is not counted as starting, too.
    assert found.shares() == pytest.approx(
        {
            "time/steps": 0.4,
            "time/waiting": 0.2,
            "time/saving": 0.3,
            "time/evaluating": 0,
            "time/compiling": 0,
            "time/starting": 0.1,
        }
    )
    assert str(found).startswith("40.0 % steps, 20.0 % waiting, 30.0 % saving")
