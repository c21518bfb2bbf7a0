"""Traces of steps, without a run around them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from ipt_jax.config.loading import complete
from ipt_jax.errors import ConfigError
from ipt_jax.train.profiler import Profiler


def train(profiler: Profiler, first: int, last: int) -> None:
    """Takes steps as the loop does."""
    for step in range(first, last + 1):
        with profiler.annotated(step):
            metrics = jnp.ones(3) * step
        profiler.step_dispatched(step, metrics)
    profiler.close()


def traces(folder) -> list[str]:
    return sorted(path.name for path in (folder / "tensorboard/plugins/profile").glob("*"))


def test_a_run_that_ends_early_names_the_steps_that_it_traced(tmp_path):
    train(Profiler("3:9", epath.Path(tmp_path)), 1, 5)
    assert traces(tmp_path) == ["steps-3-5"]


def test_a_run_that_goes_on_behind_the_steps_says_that_nothing_is_traced(tmp_path, caplog):
    train(Profiler("3:9", epath.Path(tmp_path), start=9), 10, 11)
    assert traces(tmp_path) == [] and "nothing is traced" in caplog.text


def test_a_trace_that_cannot_be_begun_ends_no_run(tmp_path, caplog):
    jax.profiler.start_trace(str(tmp_path / "other"))
    try:
        train(Profiler("1:2", epath.Path(tmp_path)), 1, 3)
    finally:
        jax.profiler.stop_trace()
    assert traces(tmp_path) == [] and caplog.text.count("could not be written") == 1


@pytest.mark.parametrize("text", ["5", "5-7", "0:3", "7:5", "a:b", "1:2:3", ":"])
def test_what_is_no_range_of_steps_is_refused(text):
    with pytest.raises(ConfigError, match=r"log.profile must be FIRST:LAST"):
        complete({"log": {"profile": text}})
