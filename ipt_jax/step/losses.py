"""The losses: L1 and the contrastive terms for fixed groups of images, computed in float32.

Features are `[G, n, N, D]`: G groups of n images with N patches each. A group never crosses devices
or micro-batches. Hence the value does not depend on the number of devices, and memory grows with
the number of groups instead of the square of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array


def l1(output: Array, target: Array) -> Array:
    """Returns the mean absolute difference of two `[B, H, W, 3]` in 0..255, a scalar."""
    return jnp.mean(jnp.abs(output.astype(jnp.float32) - target.astype(jnp.float32)))


def _unit(features: Array) -> Array:
    x = features.astype(jnp.float32)
    # With rsqrt(max(..)), a zero vector has a similarity and a gradient of 0; a norm would give
    # NaN.
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-12))


def _cosines(a: Array, b: Array) -> Array:
    return jnp.einsum("...nd,...md->...nm", a, b, precision="highest")


def eq5(features: Array) -> Array:
    """Returns equation 5 of the paper for each group: `[G, n, N, D]` -> `[G]`.

    `l = -log(exp d(f_j,i1, f_j,i2) / sum_{k != j} exp d(f_j,i1, f_k,i2))`, where d is the cosine,
    averaged over the images j and all N^2 pairs (i1, i2). There is no temperature. The positive is
    not in the denominator, so the value can be negative.

    Raises:
      ValueError: a group has fewer than two images.
    """
    f = _unit(features)
    n = f.shape[1]
    if n < 2:
        raise ValueError("equation 5 needs at least two images in a group")
    # The mean of all N^2 cosines of two images is the product of their mean patches.
    means = jnp.mean(f, axis=2)
    # With one other image, the logarithm cancels the exponential.
    if n == 2:
        return jnp.sum(means[:, 0] * means[:, 1], -1) - 0.5 * jnp.sum(means**2, (1, 2))

    @jax.checkpoint
    def image_loss(group: Array, j: Array) -> Array:
        # [n, N, N]
        cosines = _cosines(group[j], group)
        others = jnp.where((jnp.arange(n) != j)[:, None, None], jnp.exp(cosines), 0)
        return jnp.mean(jnp.log(jnp.sum(others, axis=0)) - cosines[j])

    def group_loss(group: Array) -> Array:
        return jnp.mean(jax.lax.map(lambda j: image_loss(group, j), jnp.arange(n)))

    return jax.vmap(group_loss)(f)


def supcon(features: Array, temperature: float = 0.07) -> Array:
    """Returns the supervised contrastive loss of each group: `[G, n, N, D]` -> `[G]`.

    Khosla et al., "Supervised Contrastive Learning", 2020, as in the published MindSpore code. The
    positives of a patch are the other patches of its image. The denominator has every other patch
    of the group.

    Raises:
      ValueError: an image has fewer than two patches.
    """
    f = _unit(features)
    n, patches = f.shape[1:3]
    if n * patches < 2 or patches < 2:
        raise ValueError("SupCon needs at least two patches in an image")

    @jax.checkpoint
    def image_loss(group: Array, j: Array) -> Array:
        # [n, N, N], with the anchor patches along axis 1.
        logits = _cosines(group[j], group) / temperature
        itself = (jnp.arange(n) == j)[:, None, None] & jnp.eye(patches, dtype=bool)
        logits = jnp.where(itself, -jnp.inf, logits)
        log_denominator = jax.nn.logsumexp(logits, axis=(0, 2))
        own = jnp.where(jnp.eye(patches, dtype=bool), 0, logits[j])
        return jnp.mean(log_denominator - jnp.sum(own, axis=1) / (patches - 1))

    def group_loss(group: Array) -> Array:
        return jnp.mean(jax.lax.map(lambda j: image_loss(group, j), jnp.arange(n)))

    return jax.vmap(group_loss)(f)


def contrastive(loss: Mapping[str, Any]) -> Callable[[Array], Array] | None:
    """Returns the contrastive term of a config's `loss` part, or None if there is none."""
    if loss["contrastive"] == "none" or not loss["weight"]:
        return None
    if loss["contrastive"] == "eq5":
        return eq5
    return lambda features: supcon(features, loss["temperature"])
