"""Schedules, Adam for each group of parameters, clipping, and the moving average of the weights.

A group is a top-level entry of the parameters: the body, or one task's head, tail and embedding. Each has its own
Adam state, step count included, so that a task that was not drawn is left alone as PyTorch leaves it: with one count
and zero gradients Adam would go on moving it on old momentum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

Array = jax.Array
Tree = Any

SCHEDULES = ("cosine", "step", "constant")


def schedule(optim: Mapping[str, Any]) -> Callable[[Array], Array]:
    """Learning rate as a function of the step, from a config's `optim` part.

    All start with a linear warm-up over `warmup_steps`; then "cosine" falls to `final_learning_rate` at
    `schedule_steps`, "step" changes to it at once at the share `drop_at` of `schedule_steps` (the paper: 5e-5, 2e-5
    from epoch 200 of 300), "constant" stays.
    """
    peak, final = optim["learning_rate"], optim["final_learning_rate"]
    steps, warmup = optim["schedule_steps"], optim["warmup_steps"]
    if optim["schedule"] == "cosine":
        after = optax.cosine_decay_schedule(peak, max(1, steps - warmup), alpha=final / peak)
    elif optim["schedule"] == "step":
        after = optax.piecewise_constant_schedule(peak, {round(optim["drop_at"] * steps) - warmup: final / peak})
    else:
        after = optax.constant_schedule(peak)
    # Counted from 1, so that the first step already learns.
    warm = optax.linear_schedule(peak / (warmup + 1), peak, warmup) if warmup else after
    return optax.join_schedules([warm, after], [warmup])


def adam(optim: Mapping[str, Any]) -> optax.GradientTransformation:
    """Adam's direction (without the learning rate), for one group."""
    return optax.scale_by_adam(b1=optim["b1"], b2=optim["b2"], eps=optim["eps"])


def clip_by_global_norm(grads: Tree, norm: Array, limit: float) -> Tree:
    """Gradients of all groups together scaled down to a norm of `limit`; 0 leaves them alone."""
    if not limit:
        return grads
    factor = jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-12))
    return jax.tree.map(lambda g: g * factor, grads)


def spike_guard(loss: Array, good: Array, usual: Array, limit: float) -> tuple[Array, Array]:
    """Whether a step counts, its loss being at most `limit` times the usual one, and the usual loss after it.

    The usual loss is a moving average over some hundred steps that counted; infinite before the first.
    """
    good = good & (loss <= limit * usual)
    after = jnp.where(jnp.isinf(usual), loss, 0.99 * usual + 0.01 * loss)
    return good, jnp.where(good, after, usual)


def ema_decay(decay: float, step: Array) -> Array:
    """The moving average's decay at a step: short at first, so that the start is soon forgotten."""
    return jnp.minimum(decay, (1 + step) / (10 + step))
