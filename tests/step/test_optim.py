"""The schedules of the learning rate."""

from __future__ import annotations

import pytest
import small

from ipt_jax.step import optim


def test_schedules():
    base = dict(
        small.config()["optim"],
        schedule_steps=300,
        warmup_steps=0,
        learning_rate=5e-5,
        final_learning_rate=2e-5,
    )
    paper = optim.schedule({**base, "schedule": "step", "drop_at": 2 / 3})
    assert [float(paper(i)) for i in (0, 199, 200, 299)] == pytest.approx([5e-5, 5e-5, 2e-5, 2e-5])
    warm = optim.schedule({**base, "schedule": "step", "drop_at": 2 / 3, "warmup_steps": 10})
    assert [float(warm(i)) for i in (0, 9, 10, 199, 200)] == pytest.approx(
        [5e-5 / 11, 5e-5 * 10 / 11, 5e-5, 5e-5, 2e-5]
    )
    cosine = optim.schedule({**base, "schedule": "cosine", "warmup_steps": 100})
    assert [float(cosine(i)) for i in (100, 200, 300, 400)] == pytest.approx(
        [5e-5, 3.5e-5, 2e-5, 2e-5]
    )
    assert float(optim.schedule({**base, "schedule": "constant"})(10_000)) == pytest.approx(5e-5)


def test_warm_up_stable_decay():
    base = dict(
        small.config()["optim"],
        schedule="wsd",
        warmup_steps=4,
        learning_rate=5e-5,
        final_learning_rate=1e-5,
    )
    endless = optim.schedule(base)
    assert [float(endless(i)) for i in (0, 3, 4, 10**6)] == pytest.approx([1e-5, 4e-5, 5e-5, 5e-5])
    rate = optim.schedule({**base, "decay_start": 100, "decay_steps": 64})
    assert [float(rate(i)) for i in (99, 100, 104, 116, 164, 999)] == pytest.approx(
        [5e-5, 5e-5, 4e-5, 3e-5, 1e-5, 1e-5]
    )


def test_schedules_end():
    base = dict(small.config()["optim"], schedule_steps=300, decay_start=0, decay_steps=64)
    ends = {name: optim.last_step({**base, "schedule": name}) for name in optim.SCHEDULES}
    assert ends == {"cosine": 300, "step": 300, "constant": None, "wsd": None}
    assert optim.last_step({**base, "schedule": "wsd", "decay_start": 100}) == 164
