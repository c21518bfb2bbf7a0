"""The losses: L1 in 0..255 units and the contrastive terms, for fixed groups of pictures.

Features are `[G, n, N, D]`: G groups of n pictures with N patches each. A group never crosses
devices or micro-batches, so the value does not depend on the number of devices, and memory grows
with the number of groups, not with the square of the batch. Everything is float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def l1(output: Array, target: Array) -> Array:
    """Mean absolute difference, a scalar; `[B, H, W, 3]` in 0..255 each."""
    return jnp.mean(jnp.abs(output.astype(jnp.float32) - target.astype(jnp.float32)))


def _unit(features: Array) -> Array:
    x = features.astype(jnp.float32)
    # rsqrt(max(..)) rather than a norm: a zero vector has similarity 0 and a gradient of 0, not
    # NaN.
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-12))


def _cosines(a: Array, b: Array) -> Array:
    return jnp.einsum("...nd,...md->...nm", a, b, precision="highest")


def eq5(features: Array) -> Array:
    """Equation 5 of the paper for each group: `[G, n, N, D]` -> `[G]`.

    `l = -log(exp d(f_j,i1, f_j,i2) / sum_{k != j} exp d(f_j,i1, f_k,i2))` with d the cosine,
    averaged over the pictures j and all N^2 pairs (i1, i2). No temperature; the positive is not in
    the denominator, so the value can be negative.
    """
    f = _unit(features)
    n = f.shape[1]
    if n < 2:
        raise ValueError("eq. 5 needs at least two pictures in a group")
    # The mean of all N^2 cosines of two pictures is the product of their means
    means = jnp.mean(f, axis=2)
    # With one other picture the logarithm undoes the exponential
    if n == 2:
        return jnp.sum(means[:, 0] * means[:, 1], -1) - 0.5 * jnp.sum(means**2, (1, 2))

    @jax.checkpoint
    def picture(group: Array, j: Array) -> Array:
        # [n, N, N]
        cosines = _cosines(group[j], group)
        others = jnp.where((jnp.arange(n) != j)[:, None, None], jnp.exp(cosines), 0)
        return jnp.mean(jnp.log(jnp.sum(others, axis=0)) - cosines[j])

    def one(group: Array) -> Array:
        return jnp.mean(jax.lax.map(lambda j: picture(group, j), jnp.arange(n)))

    return jax.vmap(one)(f)


def supcon(features: Array, temperature: float = 0.07) -> Array:
    """Supervised contrastive loss (Khosla et al., 2020) for each group: `[G, n, N, D]` -> `[G]`.

    The positives of a patch are the other patches of its picture, the denominator is every patch of
    the group but
    itself: what the published MindSpore code computes.
    """
    f = _unit(features)
    n, patches = f.shape[1:3]
    if n * patches < 2 or patches < 2:
        raise ValueError("SupCon needs at least two patches in a picture")

    @jax.checkpoint
    def picture(group: Array, j: Array) -> Array:
        # [n, N, N]: anchor patches along axis 1
        logits = _cosines(group[j], group) / temperature
        itself = (jnp.arange(n) == j)[:, None, None] & jnp.eye(patches, dtype=bool)
        logits = jnp.where(itself, -jnp.inf, logits)
        log_denominator = jax.nn.logsumexp(logits, axis=(0, 2))
        own = jnp.where(jnp.eye(patches, dtype=bool), 0, logits[j])
        return jnp.mean(log_denominator - jnp.sum(own, axis=1) / (patches - 1))

    def one(group: Array) -> Array:
        return jnp.mean(jax.lax.map(lambda j: picture(group, j), jnp.arange(n)))

    return jax.vmap(one)(f)


def contrastive(loss: Mapping[str, Any]) -> Callable[[Array], Array] | None:
    """The contrastive term that a config's `loss` part asks for, or None."""
    if loss["contrastive"] == "none" or not loss["weight"]:
        return None
    if loss["contrastive"] == "eq5":
        return eq5
    return lambda features: supcon(features, loss["temperature"])
