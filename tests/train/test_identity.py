"""The comparison of configs between the processes of a run."""

from __future__ import annotations

from groups import all_do, make_groups

from ipt_jax.train.identity import check_same


def test_what_differs_is_listed_with_the_processes():
    three = make_groups(3)
    configs = [
        {"seed": 0, "data": {"dir": str(i)}, "optim": {"b1": 0.9 if i < 2 else 0.8}}
        for i in range(3)
    ]
    found = all_do(
        lambda group: check_same(group, "config", configs[group.index]), *((x,) for x in three)
    )
    assert len({str(e) for e in found}) == 1
    assert str(found[0]).splitlines()[1:] == [
        "  config.optim.b1: 0.9 on process 0, 0.8 on process 2"
    ]
