"""The schedules of the learning rate, and the optimisers' settings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from optax import contrib

from ipt_jax.config.loading import complete
from ipt_jax.step import optim
from ipt_jax.trees import nested


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


@pytest.mark.parametrize("changes", [{}, {"b1": 0.5}, {"b2": 0.9}, {"eps": 0.1}])
@pytest.mark.parametrize("name", ["adam", "muon"])
def test_adam_by_its_formula(name, changes):
    """A vector, which is Adam's under Muon, too, where its momentum is Nesterov's."""
    settings = complete({"optim": {"name": name, **changes}}).optim
    b1, b2, eps = ({"b1": 0.9, "b2": 0.999, "eps": 1e-8} | changes).values()
    transform = optim.direction(settings)
    params = {"bias": np.zeros(3, np.float32)}
    state, m, v = transform.init(params), np.zeros(3), np.zeros(3)
    for step, gradient in enumerate([[1.0, -2.0, 0.5], [3.0, 1.0, -0.5]], 1):
        g = np.array(gradient)
        found, state = transform.update({"bias": g.astype(np.float32)}, state, params)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        momentum = m / (1 - b1**step)
        if name == "muon":
            # Dozat, 2016, with the correction of the next step's momentum.
            momentum = b1 * m / (1 - b1 ** (step + 1)) + (1 - b1) * g / (1 - b1**step)
        expected = momentum / (np.sqrt(v / (1 - b2**step)) + eps)
        np.testing.assert_allclose(found["bias"], expected, rtol=2e-5)


def test_a_spike_does_not_count_and_leaves_the_average():
    def of(loss: float, good: bool, usual: float) -> tuple[bool, float]:
        counts, after = optim.spike_guard(*map(jnp.asarray, (loss, good, usual)), limit=2.5)
        return bool(counts), float(after)

    assert of(5.0, True, 2.0) == (True, pytest.approx(0.99 * 2 + 0.01 * 5))
    assert of(5.1, True, 2.0) == (False, 2.0)
    assert of(1.0, False, 2.0) == (False, 2.0)
    # Before the first step that counts, no loss is a spike.
    assert of(7.0, True, np.inf) == (True, 7.0)
    assert of(np.nan, False, np.inf) == (False, np.inf)


def test_the_decay_of_the_ema_rises_to_its_value():
    decays = [float(optim.ema_decay(0.99, jnp.asarray(step))) for step in (0, 90, 10_000)]
    assert decays == pytest.approx([0.1, 0.91, 0.99])


def test_gradients_are_scaled_down_to_the_limit_and_never_up():
    grads = {"a": jnp.asarray([3.0]), "b": jnp.asarray([4.0])}
    for limit, expected in ((2.5, (1.5, 2.0)), (10.0, (3.0, 4.0)), (0.0, (3.0, 4.0))):
        found = optim.clip_by_global_norm(grads, jnp.asarray(5.0), limit)
        assert (float(found["a"][0]), float(found["b"][0])) == pytest.approx(expected)
    zeros = jax.tree.map(jnp.zeros_like, grads)
    assert float(optim.clip_by_global_norm(zeros, jnp.asarray(0.0), 1.0)["a"][0]) == 0


def test_muon_takes_matrices_by_their_axes_and_leaves_the_rest_to_adam():
    shapes = {
        "encoder/qkv": (2, 8, 24),
        "mlp/kernel": (8, 32),
        "head/inner/kernel": (3, 3, 4, 5),
        "lora/a": (8, 2),
        "lora/b": (2, 8),
        # The first and the last convolution have 3 colours.
        "head/conv/kernel": (3, 3, 3, 4),
        "tail/conv/kernel": (3, 3, 4, 3),
        "norm/scale": (8,),
        "mlp/bias": (32,),
        "position": (16, 8),
    }
    params = nested({name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    found = optim._matrices(params)
    axes = {
        jax.tree_util.keystr(path, simple=True, separator="/"): dims
        for path, dims in jax.tree_util.tree_leaves_with_path(
            found, is_leaf=lambda x: isinstance(x, contrib.MuonDimensionNumbers)
        )
    }
    assert axes == {
        "encoder/qkv": contrib.MuonDimensionNumbers(1, 2),
        "mlp/kernel": contrib.MuonDimensionNumbers(0, 1),
        "head/inner/kernel": contrib.MuonDimensionNumbers((0, 1, 2), 3),
        "lora/a": contrib.MuonDimensionNumbers(0, 1),
        "lora/b": contrib.MuonDimensionNumbers(0, 1),
    }
