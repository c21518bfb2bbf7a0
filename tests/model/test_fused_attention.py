"""The fused kernel against plain attention, by Pallas' interpreter."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipt_jax.model import fused_attention as fused

FORMS = {
    "self": (fused.SELF, (3,)),
    "q = k": (fused.SHARED_KEY, (2, 1)),
    "cross": (fused.SHARED_VALUE, (1, 2)),
    "separate": (fused.SEPARATE, (1, 1, 1)),
}


def plain(arrays, parts, heads: int, tokens: int):
    """Attention as in the paper, in float32."""
    width = sum(x.shape[0] for x in arrays) // 3
    q, k, v = (
        arrays[a][place * width : (place + 1) * width]
        .astype(jnp.float32)
        .reshape(heads, width // heads, -1, tokens)
        .transpose(2, 0, 3, 1)
        for a, place in parts
    )
    exact = dict(precision="highest")
    logits = jnp.einsum("bhqd,bhkd->bhqk", q, k, **exact) * (width // heads) ** -0.5
    mixed = jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(logits, axis=-1), v, **exact)
    return mixed.transpose(1, 3, 0, 2).reshape(width, -1)


def difference(found, expected) -> float:
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(("heads", "size", "tokens"), [(2, 48, 256), (1, 16, 128), (1, 32, 512)])
@pytest.mark.parametrize("form", FORMS)
def test_values_and_gradients_are_those_of_plain_attention(form, heads, size, tokens):
    parts, rows = FORMS[form]
    rng = np.random.default_rng(0)
    width = heads * size
    arrays = tuple(
        jnp.asarray(rng.normal(size=(count * width, 2 * tokens)), jnp.float32) for count in rows
    )
    gradient = jnp.asarray(rng.normal(size=(width, 2 * tokens)), jnp.float32)

    @jax.jit
    def both(arrays, gradient):
        mixed, back = jax.vjp(
            lambda x: fused.fused_attention(x, parts, heads, tokens, True), arrays
        )
        wanted, expected_back = jax.vjp(lambda x: plain(x, parts, heads, tokens), arrays)
        return (mixed, *back(gradient)[0]), (wanted, *expected_back(gradient)[0])

    for found, expected in zip(*both(arrays, gradient), strict=True):
        assert difference(found, expected) <= 2e-6


@pytest.mark.parametrize("form", ["self", "q = k", "cross"])
def test_bfloat16_is_no_worse_than_plain_bfloat16(form):
    """Both are compared with float32 of the same rounded inputs."""
    heads, size, tokens = 2, 48, 256
    parts, rows = FORMS[form]
    rng = np.random.default_rng(1)
    width = heads * size
    arrays = tuple(
        jnp.asarray(rng.normal(size=(count * width, 2 * tokens)), jnp.bfloat16) for count in rows
    )
    gradient = jnp.asarray(rng.normal(size=(width, 2 * tokens)), jnp.bfloat16)

    def rounded(x):
        """As layers.py computes in bfloat16: products rounded, softmax in float32."""
        q, k, v = (
            x[a][place * width : (place + 1) * width]
            .reshape(heads, size, -1, tokens)
            .transpose(2, 0, 3, 1)
            for a, place in parts
        )
        logits = jnp.einsum(
            "bhqd,bhkd->bhqk", q * size**-0.5, k, preferred_element_type=jnp.float32
        )
        weights = jax.nn.softmax(logits, axis=-1).astype(jnp.bfloat16)
        mixed = jnp.einsum("bhqk,bhkd->bhqd", weights, v)
        return mixed.transpose(1, 3, 0, 2).reshape(width, -1)

    def run(function, *values):
        mixed, back = jax.vjp(function, values[0])
        return mixed, *back(values[1].astype(mixed.dtype))[0]

    wanted = run(
        lambda x: plain(x, parts, heads, tokens),
        tuple(x.astype(jnp.float32) for x in arrays),
        gradient,
    )
    ours = run(lambda x: fused.fused_attention(x, parts, heads, tokens, True), arrays, gradient)
    theirs = run(rounded, arrays, gradient)
    for found, other, expected in zip(ours, theirs, wanted, strict=True):
        assert difference(found, expected) <= 1.1 * difference(other, expected)


@pytest.mark.parametrize(
    ("tokens", "size", "possible"),
    [(256, 48, True), (128, 16, True), (144, 48, False), (256, 24, False), (1024, 48, False)],
)
def test_where_the_kernel_can_be_used(tokens, size, possible):
    assert fused.fits(tokens, size) == possible
