"""The formula for FLOPs, against the paper and the compiler's count."""

from __future__ import annotations

import golden
import jax
import jax.numpy as jnp
import pytest

from ipt_jax.model import IPT, flops

# Multiply-adds of a tile in units of 1e9, with the smallest and the largest tail. The paper says
# 33.
PAPER = {"denoise30": 33.0, "sr4": 34.7}


@pytest.mark.parametrize("task", PAPER)
def test_multiply_adds_of_the_papers_model(task):
    assert flops.multiply_adds(IPT(golden.SCALES), task) == pytest.approx(
        PAPER[task] * 1e9, rel=5e-3
    )


def test_training_cost_of_the_papers_model():
    model = IPT(golden.SCALES)
    assert flops.step(model, model.names, 1) == pytest.approx(200.7e9, rel=5e-3)


@pytest.mark.parametrize("task", ["sr2", "sr4", "denoise30"])
def test_the_formula_is_the_compilers_count_on_an_unrolled_model(task):
    """With one layer in each stack, the compiler counts all layers, and element-wise work too."""
    model = IPT(golden.SCALES, encoder_layers=1, decoder_layers=1)
    params = jax.eval_shape(lambda: model.init_params(0))
    tile = jax.ShapeDtypeStruct((2, 48, 48, 3), jnp.float32)
    counted = (
        jax.jit(lambda p, x: model.apply({"params": p}, {task: x}))
        .lower(params, tile)
        .cost_analysis()["flops"]
    )
    assert counted == pytest.approx(flops.forward(model, (task,), 2), rel=0.03)


@pytest.mark.parametrize("task", ["sr2", "sr4", "denoise30"])
def test_the_formula_of_a_training_step_is_the_compilers_count(task):
    """The backward pass costs two forward ones, less the gradient with respect to the image."""
    model = IPT(golden.SCALES, encoder_layers=1, decoder_layers=1)
    params = jax.eval_shape(lambda: model.init_params(0))
    tile = jax.ShapeDtypeStruct((2, 48, 48, 3), jnp.float32)

    def loss(p, x):
        return jnp.mean(jnp.abs(model.apply({"params": p}, {task: x})[0][task]))

    counted = jax.jit(jax.grad(loss)).lower(params, tile).cost_analysis()["flops"]
    assert counted == pytest.approx(flops.step(model, (task,), 2), rel=0.03)
