"""Resolved configs: what a resumed run, a branch of a run and the hosts of a run may change."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipt_jax.config import defaults
from ipt_jax.config.keys import TABLE, Key, Range
from ipt_jax.config.loading import complete, load
from ipt_jax.config.resolve import differences, fingerprint, resolve

# Pinned: whoever changes the table must change these lists as well.
RESUME = """steps epochs devices sharding init_from branch_from data.dir data.workers data.threads
    data.prefetch data.stalled data.max_bad optim.max_skipped checkpoint.every checkpoint.keep
    checkpoint.keep_every checkpoint.max_failed evaluate.every evaluate.pictures evaluate.size
    evaluate.batch evaluate.overlap evaluate.best evaluate.patience log.every log.tensorboard
    log.wandb log.stacks_after log.profile model.remat model.attention"""
BRANCH = """optim.learning_rate optim.final_learning_rate optim.schedule optim.schedule_steps
    optim.warmup_steps optim.drop_at optim.decay_start optim.decay_steps"""
PER_HOST = "data.dir data.workers data.threads data.prefetch data.stalled"


def test_keys_that_may_change_are_pinned():
    assert {key.name for key in TABLE if key.resume} == set(RESUME.split())
    assert {key.name for key in TABLE if key.branch} == set(BRANCH.split())
    assert {key.name for key in TABLE if key.per_host} == set(PER_HOST.split())
    assert set(defaults.PER_HOST) == set(PER_HOST.split())
    assert set(defaults.BRANCH_MAY_CHANGE) == set(BRANCH.split())
    # Groups are prefixes: they also cover keys that another version of the package has written.
    assert {name for name in defaults.MAY_CHANGE if name.endswith(".")} == {
        "checkpoint.",
        "evaluate.",
        "log.",
    }


def other(key: Key):
    """A value of the key's type that is not its default."""
    if isinstance(key.allowed, tuple):
        return next(choice for choice in key.allowed if choice != key.default)
    if isinstance(key.default, bool):
        return not key.default
    if isinstance(key.default, str):
        return key.default + "other"
    if isinstance(key.default, tuple):
        return (*key.default, "other")
    return key.default + 1


@pytest.mark.parametrize("key", TABLE, ids=lambda key: key.name)
def test_a_resumed_run_is_refused_exactly_when_the_table_says_so(key):
    old = resolve(complete({}))
    new = copy.deepcopy(old)
    part = new[key.group] if key.group else new
    part[key.name.rpartition(".")[2]] = other(key)
    changed = differences(old, new)
    resumes = key.name in RESUME.split()
    branches = resumes or key.name in BRANCH.split()
    assert bool(changed) is not resumes
    assert all(line.startswith(f"{key.name}: ") for line in changed)
    assert (fingerprint(old) == fingerprint(new)) is resumes
    may_change = (*defaults.MAY_CHANGE, *defaults.BRANCH_MAY_CHANGE)
    assert bool(differences(old, new, may_change)) is not branches


def values(key: Key):
    """Values that a key accepts."""
    if isinstance(key.allowed, tuple):
        return st.sampled_from(key.allowed)
    allowed = key.allowed or Range()
    if isinstance(key.default, bool):
        return st.booleans()
    if isinstance(key.default, int):
        return st.integers(0, 10**9).filter(lambda number: number in allowed)
    if isinstance(key.default, float):
        high = allowed.maximum or allowed.below or 1e9
        return st.floats(0, high).filter(lambda number: number in allowed)
    if isinstance(key.default, str):
        return st.text(max_size=12)
    return st.lists(st.text(max_size=12), max_size=3)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_round_trip_through_json_makes_no_difference(data):
    keys = data.draw(st.lists(st.sampled_from(TABLE), unique=True, max_size=8))
    changes: dict = {}
    for key in keys:
        *groups, last = key.name.split(".")
        node = changes
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = data.draw(values(key))
    config = resolve(complete(changes, checked=False))
    stored = json.loads(json.dumps(config))
    assert differences(config, stored, ()) == differences(stored, config, ()) == []
    assert fingerprint(config) == fingerprint(stored)
    assert json.dumps(config, sort_keys=True) == json.dumps(stored, sort_keys=True)


def test_schedule_length():
    config = complete({"steps": 7})
    assert resolve(config)["optim"]["schedule_steps"] == 7
    assert resolve(config, 5)["optim"]["schedule_steps"] == 5
    config = complete({"optim": {"schedule_steps": 3}})
    assert resolve(config, 5)["optim"]["schedule_steps"] == 3


def test_what_a_resumed_run_may_change():
    old = resolve(load("configs/demo.py"))
    free = [
        "steps=999",
        "data.dir=elsewhere",
        "data.workers=3",
        "checkpoint.every=7",
        "evaluate.every=9",
        "log.every=3",
        "devices=1",
    ]
    new = resolve(load("configs/demo.py", free), old["optim"]["schedule_steps"])
    assert differences(old, new) == [] and fingerprint(old) == fingerprint(new)
    another = resolve(load("configs/demo.py", ["seed=1", "loss.weight=0.2"]))
    assert differences(old, another) == ["loss.weight: 0.1 -> 0.2", "seed: 0 -> 1"]
    assert fingerprint(old) != fingerprint(another)


def test_a_run_that_is_older_than_a_key_has_its_default():
    old = resolve(load("configs/demo.py"))
    new = resolve(load("configs/demo.py"))
    del old["finetune"], old["data"]["epoch_crops"]
    assert differences(old, new) == []
    new["finetune"]["lora_rank"] = 2
    assert differences(old, new) == ["finetune.lora_rank: 0 -> 2"]


def test_a_key_of_another_version_counts_unless_its_group_may_change():
    new = resolve(complete({}))
    old = copy.deepcopy(new)
    old["log"]["bygone"] = 1
    assert differences(old, new) == [] and fingerprint(old) == fingerprint(new)
    old["optim"]["bygone"] = 1
    assert differences(old, new) == ["optim.bygone: 1 -> '(none)'"]


def test_the_fingerprint_of_the_defaults_is_pinned():
    assert fingerprint(resolve(complete({}))) == "f539f3aa943e4c54"
