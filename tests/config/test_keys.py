"""The table of config keys: its defaults, bounds, choices and types."""

from __future__ import annotations

import math
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipt_jax.config.defaults import default
from ipt_jax.config.keys import GROUPS, KEYS, TABLE, TYPES, Key, Range
from ipt_jax.config.loading import complete
from ipt_jax.errors import ConfigError, DataError
from ipt_jax.trees import flatten

RANGES = [key for key in TABLE if isinstance(key.allowed, Range)]
CHOICES = [key for key in TABLE if isinstance(key.allowed, tuple)]
# A value of each type, and the types whose values a key of a type accepts.
OF_TYPE = {bool: True, int: 3, float: 2.5, str: "abc"}
TAKES = {bool: {bool}, int: {int}, float: {int, float}, tuple: {str}, str: set(OF_TYPE)}


def changes(name: str, value):
    """Nested dicts that set one dotted key."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def test_each_key_is_defined_once_in_a_known_group():
    assert len(KEYS) == len(TABLE)
    assert set(KEYS) == set(flatten(default()))
    assert all(
        type(value) is type(KEYS[name].default) for name, value in flatten(default()).items()
    )
    assert {key.group for key in TABLE} == set(GROUPS)
    for key in TABLE:
        assert type(key.default) in TYPES
        assert key.help.endswith(".") and "\n" not in key.help and "|" not in key.help
        assert not (key.resume and key.branch)


def test_defaults_are_allowed():
    complete({})
    for key in TABLE:
        key.check(key.default)


def test_choices_are_those_that_are_implemented():
    from ipt_jax.data.sources import open_source
    from ipt_jax.distributed.sharding import SHARDINGS
    from ipt_jax.metrics import METRICS
    from ipt_jax.model.init import STARTS
    from ipt_jax.model.layers import REMATERIALISATION
    from ipt_jax.step.optim import OPTIMISERS, SCHEDULES

    with pytest.raises(DataError) as unknown:
        open_source({"source": "nothing"})
    found = re.search(r"known: ([\w, ]+)", str(unknown.value))
    assert found is not None
    sources = found[1].split(", ")
    implemented = {
        "optim.schedule": SCHEDULES,
        "optim.name": OPTIMISERS,
        "sharding": SHARDINGS,
        "model.start": STARTS,
        "model.remat": REMATERIALISATION,
        "data.source": sources,
    }
    for name, known in implemented.items():
        assert set(KEYS[name].allowed) == set(known), name
    others = {"model.dtype", "model.attention", "data.draw", "loss.contrastive"}
    assert {key.name for key in CHOICES} == others | set(implemented)
    assert all(metric in KEYS["evaluate.best"].help for metric in METRICS)
    for name in METRICS:
        complete({"evaluate": {"best": name}})


@pytest.mark.parametrize(
    "module", ["keys", "defaults", "checks", "loading", "resolve", "reference"]
)
def test_the_package_does_not_import_jax(module):
    code = (
        f"import sys, ipt_jax.config.{module}; "
        "print({'jax', 'flax', 'optax', 'orbax', 'grain'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "allowed, words, inside, outside",
    [
        (Range(minimum=1), "at least 1", [1, 2, math.inf], [0, 0.999, -1, math.nan]),
        (Range(above=0), "above 0", [1e-9, 3], [0, -1e-9, math.nan]),
        (Range(minimum=0, maximum=1), "at least 0 and at most 1", [0, 1, 0.5], [-0.1, 1.1]),
        (Range(minimum=0, below=1), "at least 0 and below 1", [0, 0.999], [-0.1, 1, math.nan]),
        (Range(above=0, maximum=1), "above 0 and at most 1", [0.1, 1], [0, 1.01]),
        (Range(above=1, or_zero=True), "0 or above 1", [0, 1.1], [0.5, 1, -1, math.nan]),
    ],
)
def test_ranges(allowed, words, inside, outside):
    assert str(allowed) == words
    assert all(value in allowed for value in inside)
    assert not any(value in allowed for value in outside)


# The bounds, written a second time on purpose: a change of the table must be a decision.
AT_LEAST_1 = """steps batch_size model.features model.patch model.heads model.hidden model.tile
    data.crops data.threads data.prefetch optim.accumulate optim.max_skipped checkpoint.every
    checkpoint.keep checkpoint.max_failed evaluate.pictures evaluate.batch log.every"""
AT_LEAST_0 = """seed epochs devices model.encoder_layers model.decoder_layers data.held_out
    data.epoch_crops data.workers loss.weight optim.schedule_steps optim.warmup_steps
    optim.decay_start optim.decay_steps optim.clip_norm finetune.lora_rank checkpoint.keep_every
    evaluate.every evaluate.size evaluate.overlap evaluate.patience log.stacks_after"""
ABOVE_0 = (
    """model.input_scale model.norm_eps data.stalled optim.learning_rate finetune.lora_alpha"""
)


def test_bounds():
    bounds = {
        **dict.fromkeys(AT_LEAST_1.split(), "at least 1"),
        **dict.fromkeys(AT_LEAST_0.split(), "at least 0"),
        **dict.fromkeys(ABOVE_0.split(), "above 0"),
        "loss.group": "at least 2",
        "data.max_bad": "at least 0 and at most 1",
        "optim.ema": "at least 0 and below 1",
        "optim.drop_at": "above 0 and at most 1",
        "optim.max_spike": "0 or above 1",
    }
    assert {key.name: str(key.allowed) for key in RANGES} == bounds


def numbers(key: Key):
    """Numbers of a key's type."""
    if type(key.default) is int:
        return st.integers(-(10**6), 10**6)
    return st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0, math.nan, math.inf, -math.inf])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_value_out_of_its_bounds_is_refused_with_its_name(data):
    key = data.draw(st.sampled_from(RANGES))
    value = data.draw(numbers(key).filter(lambda number: number not in key.allowed))
    with pytest.raises(ConfigError) as error:
        complete(changes(key.name, value))
    assert str(error.value).startswith(f"{key.name} must be {key.allowed}")
    assert str(error.value).endswith(f", not {value!r}")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_an_unknown_choice_is_refused_with_the_nearest(data):
    key = data.draw(st.sampled_from(CHOICES))
    word = data.draw(st.text(max_size=8).filter(lambda word: word not in key.allowed))
    with pytest.raises(ConfigError) as error:
        complete(changes(key.name, word))
    message = str(error.value)
    assert message.startswith(f"{key.name}: unknown {word!r}")
    assert message.endswith(f"known: {', '.join(key.allowed)}")
    longest = max(key.allowed, key=len)
    with pytest.raises(ConfigError, match=f"did you mean '{longest}'"):
        complete(changes(key.name, longest + "x"))


@pytest.mark.parametrize("key", TABLE, ids=lambda key: key.name)
def test_a_value_of_another_type_is_refused_with_its_name(key):
    for kind, value in OF_TYPE.items():
        if kind in TAKES[type(key.default)]:
            assert type(key.convert(value)) is type(key.default)
            continue
        with pytest.raises(ConfigError) as error:
            complete(changes(key.name, value))
        assert str(error.value).startswith(f"{key.name} must be {TYPES[type(key.default)]}")
        assert str(error.value).endswith(f", not {value!r}")


def test_lists():
    tasks = KEYS["tasks"]
    assert tasks.convert("sr2,sr3") == ("sr2", "sr3")
    assert tasks.convert(["sr2"]) == ("sr2",)
    assert tasks.convert({"name": "n"}) == ({"name": "n"},)
