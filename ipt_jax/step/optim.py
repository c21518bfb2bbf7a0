"""Schedules, Adam or Muon for each group of parameters, clipping, and the moving average of the
weights.

A group is a top-level entry of the parameters: the body, or one task's head, tail and embedding.
Each has its own state, step count included, so that a task that was not drawn is left alone as
PyTorch leaves it: with one count and zero gradients Adam would go on moving it on old momentum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

Array = jax.Array
Tree = Any

SCHEDULES = ("cosine", "step", "constant", "wsd")
OPTIMISERS = ("adam", "muon")


def schedule(optim: Mapping[str, Any]) -> Callable[[Array], Array]:
    """Learning rate as a function of the step, from a config's `optim` part.

    All start with a linear warm-up over `warmup_steps`; then "cosine" falls to
    `final_learning_rate` at `schedule_steps`, "step" changes to it at once at the share `drop_at`
    of `schedule_steps` (the paper: 5e-5, 2e-5 from epoch 200 of 300), "constant" stays.

    "wsd" (warm-up, stable, decay; Hägele et al., "Scaling laws and compute-optimal training beyond
    fixed training durations", 2024, arXiv 2405.18392) stays until the step `decay_start` (0: for
    ever, so that such a run has no fixed end) and then falls over `decay_steps` steps to
    `final_learning_rate`, as 1 - sqrt(t).
    """
    peak, final = optim["learning_rate"], optim["final_learning_rate"]
    steps, warmup = optim["schedule_steps"], optim["warmup_steps"]
    if optim["schedule"] == "cosine":
        after = optax.cosine_decay_schedule(peak, max(1, steps - warmup), alpha=final / peak)
    elif optim["schedule"] == "step":
        after = optax.piecewise_constant_schedule(
            peak, {round(optim["drop_at"] * steps) - warmup: final / peak}
        )
    elif optim["schedule"] == "wsd" and optim["decay_start"]:
        after = _stable_then_decay(peak, final, optim["decay_start"] - warmup, optim["decay_steps"])
    else:
        after = optax.constant_schedule(peak)
    # Counted from 1, so that the first step already learns.
    warm = optax.linear_schedule(peak / (warmup + 1), peak, warmup) if warmup else after
    return optax.join_schedules([warm, after], [warmup])


def _stable_then_decay(
    peak: float, final: float, start: int, length: int
) -> Callable[[Array], Array]:
    """`peak` up to the step `start`, then down to `final` within `length` steps, steeply at first
    and ever more gently.
    """

    def rate(step: Array) -> Array:
        done = jnp.clip((step - start) / length, 0.0, 1.0)
        return final + (peak - final) * (1.0 - jnp.sqrt(done))

    return rate


def direction(optim: Mapping[str, Any]) -> optax.GradientTransformation:
    """What a group moves against, before the learning rate, from a config's `optim` part.

    "adam" is the paper's. "muon" (Jordan et al., 2024; optax.contrib) makes the momentum of each
    matrix of the body, of each factor of an adapter and of each convolution orthogonal, scaled to
    the size of Adam's directions (Liu et al., 2025, arXiv 2502.16982), so that one learning rate
    serves both; what is no such matrix takes Adam's, with Nesterov's momentum.
    """
    if optim["name"] == "adam":
        return optax.scale_by_adam(b1=optim["b1"], b2=optim["b2"], eps=optim["eps"])
    muon = contrib.muon(
        1.0,
        eps=optim["eps"],
        adam_b1=optim["b1"],
        adam_b2=optim["b2"],
        consistent_rms=0.2,
        muon_weight_dimension_numbers=_matrices,
    )
    # It comes with the sign of an update
    return optax.chain(muon, optax.scale(-1.0))


def _matrices(params: Tree) -> Tree:
    """Which axes of a parameter go in and which come out of its product; None for what Adam moves.

    They are named "kernel" or "qkv", and "a" or "b" in an adapter. Stacked layers have an axis
    before; the first and the last convolution, of 3 colours, are left to Adam.
    """

    def axes(path: Any, x: Array) -> contrib.MuonDimensionNumbers | None:
        name = jax.tree_util.keystr(path, simple=True, separator="/").rpartition("/")[2]
        if name not in ("kernel", "qkv", "a", "b") or (x.ndim == 4 and 3 in x.shape[2:]):
            return None
        return contrib.MuonDimensionNumbers(
            tuple(range(3)) if x.ndim == 4 else x.ndim - 2, x.ndim - 1
        )

    return jax.tree_util.tree_map_with_path(axes, params)


def clip_by_global_norm(grads: Tree, norm: Array, limit: float) -> Tree:
    """Gradients of all groups together scaled down to a norm of `limit`; 0 leaves them alone."""
    if not limit:
        return grads
    factor = jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-12))
    return jax.tree.map(lambda g: g * factor, grads)


def spike_guard(loss: Array, good: Array, usual: Array, limit: float) -> tuple[Array, Array]:
    """Whether a step counts, its loss being at most `limit` times the usual one, and the usual loss
    after it.

    The usual loss is a moving average over some hundred steps that counted; infinite before the
    first.
    """
    good = good & (loss <= limit * usual)
    after = jnp.where(jnp.isinf(usual), loss, 0.99 * usual + 0.01 * loss)
    return good, jnp.where(good, after, usual)


def ema_decay(decay: float, step: Array) -> Array:
    """The moving average's decay at a step: short at first, so that the start is soon forgotten."""
    return jnp.minimum(decay, (1 + step) / (10 + step))
