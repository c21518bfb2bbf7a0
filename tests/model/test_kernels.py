"""The network with a kernel against the plain one: values, gradients, choice by the config."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipt_jax.distributed import devices
from ipt_jax.errors import ConfigError
from ipt_jax.model import build, preset
from ipt_jax.model.fused_attention import FusedAttention
from ipt_jax.model.ipt import choose_kernel
from ipt_jax.model.norms import row_norm
from ipt_jax.tasks import make_tasks

TASKS = make_tasks(["sr2", "denoise50"])
MODEL = {**preset("tiny"), "heads": 3, "encoder_layers": 2, "decoder_layers": 2}


def loss_of(model, shards: int = 1):
    """Returns a function of parameters and inputs whose gradients reach every parameter."""

    def loss(params, lq, weights):
        outputs, tokens = model.apply({"params": params}, lq, shards)
        return sum(
            jnp.mean(outputs[name] * weights[name])
            + jnp.mean(tokens[name].astype(jnp.float32) ** 2)
            for name in outputs
        )

    return jax.jit(jax.value_and_grad(loss))


@pytest.fixture(scope="module")
def case():
    """A plain model, its parameters, inputs, weights of the outputs, and the expected results."""
    model = build(MODEL, TASKS)
    rng = np.random.default_rng(0)
    lq = {t.name: rng.integers(0, 256, (2, 48, 48, 3)).astype(np.uint8) for t in TASKS}
    weights = {
        t.name: rng.normal(size=(2, 48 * t.scale, 48 * t.scale, 3)).astype(np.float32)
        for t in TASKS
    }
    params = model.init_params(1)
    return model, params, lq, weights, loss_of(model)(params, lq, weights)


def assert_close(found, expected, share: float):
    for path, one in jax.tree_util.tree_leaves_with_path(expected):
        other = found
        for key in path:
            other = other[key.idx if hasattr(key, "idx") else key.key]
        largest = np.abs(np.asarray(one)).max()
        assert np.abs(np.asarray(other) - np.asarray(one)).max() <= share * largest, path


@pytest.mark.parametrize("remat", ["none", "elementwise", "dots", "layer"])
def test_the_fused_network_equals_the_plain_one(case, remat):
    model, params, lq, weights, expected = case
    fused = model.clone(kernel=FusedAttention(model.tokens, None, True), remat=remat)
    assert_close(loss_of(fused)(params, lq, weights), expected, 2e-5)


def test_each_device_runs_the_kernel_for_its_own_images(case):
    model, params, lq, weights, expected = case
    mesh = devices.make_mesh(2)
    fused = model.clone(kernel=FusedAttention(model.tokens, mesh, True), remat="elementwise")
    assert_close(loss_of(fused, 2)(params, lq, weights), expected, 2e-5)


def test_both_forms_have_the_same_parameters(case):
    model, params, *_ = case
    fused = model.clone(kernel=FusedAttention(model.tokens, None, True))
    jax.tree.map(np.testing.assert_array_equal, fused.init_params(1), params)
    tile = jnp.zeros((1, 48, 48, 3))
    shapes = jax.eval_shape(lambda: fused.init(jax.random.key(0), {"sr2": tile, "denoise50": tile}))
    assert jax.tree.map(jnp.shape, shapes["params"]) == jax.tree.map(jnp.shape, params)


def test_the_bias_of_published_files_and_the_norm_of_the_paper_are_computed(case):
    *_, lq, weights, _ = case
    small = {"encoder_layers": 1, "decoder_layers": 1, "out_bias": True, "memory_norm": True}
    plain = build({**MODEL, **small}, TASKS)
    params = plain.init_params(2)
    params["body"]["encoder"]["self_attention"]["out"]["bias"] += 0.3
    fused = plain.clone(kernel=FusedAttention(plain.tokens, None, True))
    assert_close(loss_of(fused)(params, lq, weights), loss_of(plain)(params, lq, weights), 2e-5)


def test_row_norm_has_the_gradients_of_layer_norm():
    rng = np.random.default_rng(0)
    x, g = (jnp.asarray(3 + 5 * rng.normal(size=(7, 48)), jnp.float32) for _ in range(2))
    scale, bias = (jnp.asarray(rng.normal(size=48), jnp.float32) for _ in range(2))

    def usual(x, scale, bias):
        mean, var = jnp.mean(x, -1, keepdims=True), jnp.var(x, -1, keepdims=True)
        return (x - mean) / jnp.sqrt(var + 1e-5) * scale + bias

    found, back = jax.vjp(lambda *a: row_norm(*a, 1e-5), x, scale, bias)
    expected, expected_back = jax.vjp(usual, x, scale, bias)
    assert_close((found, *back(g)), (expected, *expected_back(g)), 1e-5)


class Chips:
    """Stands for a mesh of one device of a platform."""

    def __init__(self, platform: str):
        self.devices = np.array([type("Chip", (), {"platform": platform})()])


@pytest.mark.parametrize(
    ("wanted", "platform", "changes", "expected"),
    [
        ("auto", "tpu", {}, "fused"),
        ("fused", "tpu", {}, "fused"),
        ("plain", "tpu", {}, "plain"),
        ("auto", "cpu", {}, "plain"),
        ("auto", "gpu", {}, "plain"),
        ("auto", "tpu", {"dtype": "float32"}, "plain"),
        ("auto", "tpu", {"tile": 36}, "plain"),
        ("cudnn", "gpu", {}, "cudnn"),
        ("fused", "cpu", {}, "needs devices of kind tpu"),
        ("cudnn", "tpu", {}, "needs devices of kind gpu"),
        ("fused", "tpu", {"dtype": "float32"}, "needs model.dtype=bfloat16"),
        ("fused", "tpu", {"tile": 36}, "a multiple of 128 tokens"),
    ],
)
def test_the_choice_of_a_kernel(wanted, platform, changes, expected):
    model = build({**MODEL, "dtype": "bfloat16", **changes}, TASKS)
    if expected in ("fused", "plain", "cudnn"):
        found = choose_kernel(wanted, model, Chips(platform))
        kind = "fused" if isinstance(found, FusedAttention) else found or "plain"
        assert kind == expected
    else:
        with pytest.raises(ConfigError, match=expected):
            choose_kernel(wanted, model, Chips(platform))
