"""The losses against golden values and their own definitions."""

from __future__ import annotations

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipt_jax.step.losses import contrastive, eq5, l1, supcon


@pytest.mark.parametrize("case", ["small", "wide"])
def test_golden_values(case):
    stored = np.load(golden.FILE)
    features = stored[f"losses/{case}/features"].astype(np.float32)[None]
    assert float(eq5(features)[0]) == pytest.approx(float(stored[f"losses/{case}/eq5"]), rel=1e-6)
    assert float(supcon(features)[0]) == pytest.approx(
        float(stored[f"losses/{case}/supcon_t0.07"]), rel=1e-6
    )


def direct_eq5(f: np.ndarray) -> float:
    """Returns equation 5 as the paper has it, in float64."""
    f = f / np.linalg.norm(f, axis=-1, keepdims=True)
    n, patches = f.shape[:2]
    total = 0.0
    for j in range(n):
        for a in range(patches):
            below = sum(np.exp(f[j, a] @ f[k].T) for k in range(n) if k != j)
            total += np.sum(-np.log(np.exp(f[j, a] @ f[j].T) / below))
    return total / (n * patches**2)


@pytest.mark.parametrize("pictures", [2, 3, 5])
def test_eq5_is_the_equation_for_each_group(pictures):
    features = np.random.default_rng(pictures).normal(size=(3, pictures, 7, 5))
    got = eq5(jnp.asarray(features, jnp.float32))
    np.testing.assert_allclose(got, [direct_eq5(group) for group in features], rtol=1e-5, atol=1e-6)


def test_eq5_of_two_pictures_agrees_with_the_general_form():
    """Groups of two images are computed in a shorter way."""
    two = np.random.default_rng(0).normal(size=(1, 2, 6, 4)).astype(np.float32)
    direct = direct_eq5(two[0].astype(np.float64))
    assert float(eq5(jnp.asarray(two))[0]) == pytest.approx(direct, abs=1e-6)


@pytest.mark.parametrize("loss", [eq5, supcon])
@pytest.mark.parametrize("pictures", [2, 4])
def test_gradients_are_finite_and_right(loss, pictures):
    features = jnp.asarray(np.random.default_rng(1).normal(size=(2, pictures, 5, 6)), jnp.float32)
    value = lambda f: jnp.sum(loss(f))  # noqa: E731
    grad = jax.grad(value)(features)
    direction = jnp.asarray(np.random.default_rng(2).normal(size=features.shape), jnp.float32)
    numeric = (value(features + 1e-2 * direction) - value(features - 1e-2 * direction)) / 2e-2
    # The derivative in a direction, against a finite difference.
    assert float(jnp.vdot(grad, direction)) == pytest.approx(float(numeric), rel=1e-2, abs=1e-3)
    zero = jax.grad(value)(features.at[0, 0, 0].set(0))
    assert bool(jnp.isfinite(zero).all())


def test_groups_do_not_see_each_other():
    features = jnp.asarray(np.random.default_rng(3).normal(size=(4, 2, 5, 6)), jnp.float32)
    for loss in (eq5, supcon):
        alone = jnp.concatenate([loss(features[i : i + 1]) for i in range(4)])
        np.testing.assert_allclose(loss(features), alone, rtol=1e-5)


def test_memory_grows_with_the_batch_not_with_its_square():
    def temporaries(groups):
        shape = jax.ShapeDtypeStruct((groups, 4, 64, 16), jnp.float32)
        compiled = jax.jit(jax.grad(lambda f: jnp.sum(eq5(f)))).lower(shape).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(16) < 2.5 * temporaries(8) and temporaries(64) < 2.5 * temporaries(32)


def test_l1_and_the_choice_of_the_contrastive_term():
    assert float(l1(jnp.full((1, 2, 2, 3), 10.0), jnp.zeros((1, 2, 2, 3), jnp.uint8))) == 10
    # The mean of absolute values, not the root of a mean of squares.
    assert float(l1(jnp.asarray([1.0, -3.0, 8.0]), jnp.zeros(3))) == 4
    settings = {"contrastive": "eq5", "weight": 0.1, "temperature": 0.07}
    assert contrastive(settings) is eq5
    assert contrastive({**settings, "contrastive": "none"}) is None
    assert contrastive({**settings, "weight": 0.0}) is None
    features = jnp.asarray(np.random.default_rng(4).normal(size=(1, 2, 5, 6)), jnp.float32)
    term = contrastive({**settings, "contrastive": "supcon", "temperature": 0.5})
    np.testing.assert_allclose(term(features), supcon(features, 0.5))
    with pytest.raises(ValueError, match="at least two"):
        eq5(features[:, :1])
