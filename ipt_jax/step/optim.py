"""Schedules, Adam and Muon for each group of parameters, clipping, and the decay of the EMA.

A group is a top-level entry of the parameters: the body, or the head, tail and embedding of a task.
Each group has its own optimiser state, step count included. As in PyTorch, a task that was not
drawn stays unchanged; with a common count and zero gradients, Adam would still move it by old
momentum.
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
    """Returns the learning rate as a function of the step.

    Every schedule starts with a linear warm-up over `warmup_steps`. Then "constant" stays at
    `learning_rate`, "cosine" decays to `final_learning_rate` at `schedule_steps`, and "step" drops
    to it at the share `drop_at` of `schedule_steps` (in the paper, 5e-5, and 2e-5 from epoch 200 of
    300).

    "wsd" (warm-up, stable, decay; Hägele et al., "Scaling laws and compute-optimal training beyond
    fixed training durations", 2024, arXiv 2405.18392) stays constant until the step `decay_start`,
    and then decays over `decay_steps` steps to `final_learning_rate`, as 1 - sqrt(t). With
    `decay_start` 0 it never decays, so the run has no fixed end.

    Args:
      optim: the `optim` part of a config.
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
    # The warm-up counts from 1, so that the learning rate of the first step is not 0.
    warm = optax.linear_schedule(peak / (warmup + 1), peak, warmup) if warmup else after
    return optax.join_schedules([warm, after], [warmup])


def last_step(optim: Mapping[str, Any]) -> int | None:
    """Returns the step at which a schedule ends; None for a schedule without an end.

    After it, the learning rate stays at `final_learning_rate`.

    Args:
      optim: the `optim` part of a resolved config.
    """
    if optim["schedule"] in ("cosine", "step"):
        return int(optim["schedule_steps"])
    if optim["schedule"] == "wsd" and optim["decay_start"]:
        return int(optim["decay_start"] + optim["decay_steps"])
    return None


def _stable_then_decay(
    peak: float, final: float, start: int, length: int
) -> Callable[[Array], Array]:
    """Returns `peak` until the step `start`, then a decay to `final` over `length` steps."""

    def rate(step: Array) -> Array:
        done = jnp.clip((step - start) / length, 0.0, 1.0)
        return final + (peak - final) * (1.0 - jnp.sqrt(done))

    return rate


def direction(optim: Mapping[str, Any]) -> optax.GradientTransformation:
    """Returns the optimiser of a group. Its output is subtracted, times the learning rate.

    "adam" is the paper's. "muon" (Jordan et al., 2024; optax.contrib) orthogonalises the momentum
    of each matrix of the body, each convolution and each factor of an adapter. It is scaled to the
    size of Adam's updates (Liu et al., 2025, arXiv 2502.16982), so that both can have the same
    learning rate. Other parameters are updated by Adam with Nesterov momentum.

    Args:
      optim: the `optim` part of a config.
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
    # optax's Muon returns updates, which are added.
    return optax.chain(muon, optax.scale(-1.0))


def _matrices(params: Tree) -> Tree:
    """Returns the input and output axes of each matrix, and None for a parameter that Adam updates.

    Matrices are named "kernel" or "qkv", and "a" or "b" in an adapter. Stacked layers have a
    leading axis. Adam updates the first and the last convolution, which have 3 colours.
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
    """Scales gradients down so that their common norm is at most `limit`; 0 means no limit."""
    if not limit:
        return grads
    factor = jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-12))
    return jax.tree.map(lambda g: g * factor, grads)


def spike_guard(loss: Array, good: Array, usual: Array, limit: float) -> tuple[Array, Array]:
    """Decides whether a step counts, which it does if its loss is at most `limit` times the usual.

    Args:
      loss: of the step.
      good: whether loss and gradient are finite.
      usual: a moving average of the loss, over about a hundred steps that counted; infinite before
        the first.
      limit: `optim.max_spike`.

    Returns:
      Whether the step counts, and the new moving average.
    """
    good = good & (loss <= limit * usual)
    after = jnp.where(jnp.isinf(usual), loss, 0.99 * usual + 0.01 * loss)
    return good, jnp.where(good, after, usual)


def ema_decay(decay: float, step: Array) -> Array:
    """Returns the decay of the EMA at a step. It is low at first, to forget the initial values."""
    return jnp.minimum(decay, (1 + step) / (10 + step))
