"""The training step: a pure function of (state, batch), compiled to one program for all tasks."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from ipt_jax.distributed import sharding
from ipt_jax.model import IPT
from ipt_jax.model.lora import LORA, merge_adapters
from ipt_jax.model.trainable import overlay, trained_part
from ipt_jax.step import losses, optim
from ipt_jax.step.state import Array, Params, TrainState, state_shardings

# `{task: {"lq", "hq"}}`, each `[B, H, W, 3]` in 0..255.
Batch = Mapping[str, Mapping[str, Array]]


def groups_of(batch: Mapping[str, Any], params: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Returns the groups of parameters that a batch uses.

    These are the body, the group of each of its tasks, and the adapters if there are any.
    """
    adapters = (LORA,) if LORA in (params or ()) else ()
    return ("body", *(f"task_{name}" for name in batch), *adapters)


def loss_fn(
    model: IPT, params: Params, batch: Batch, loss: Mapping[str, Any], shards: int
) -> tuple[Array, dict[str, Array]]:
    """Computes the loss: the mean of the tasks' L1, plus lambda times the contrastive term.

    Args:
      model: the network.
      params: its parameters, without adapters.
      batch: the same number of rows for each task.
      loss: the `loss` part of a config.
      shards: the number of devices among which the rows are split.

    Returns:
      The loss, and metrics: `loss`, `l1/<task>` in 0..255, and `contrastive`, the mean over groups.

    Raises:
      ValueError: a device's rows do not divide into groups.
    """
    if model.gather is not None:
        params = model.gather(params)
    outputs, tokens = model.apply(
        {"params": params}, {name: pair["lq"] for name, pair in batch.items()}, shards
    )
    # The scopes "losses" and "optimiser" name the operations in profiles and compiled programs, as
    # flax's modules name those of the network.
    with jax.named_scope("losses"):
        metrics = {f"l1/{name}": losses.l1(outputs[name], p["hq"]) for name, p in batch.items()}
        total = jnp.mean(jnp.stack(list(metrics.values())))
        term = losses.contrastive(loss)
        if term is not None:
            size = loss["group"]
            rows = len(next(iter(tokens.values())))
            if rows % (shards * size):
                raise ValueError(
                    f"{rows} rows a task on {shards} device(s) do not divide into groups of {size} "
                    "(loss.group)"
                )
            per_task = [term(t.reshape(-1, size, *t.shape[1:])) for t in tokens.values()]
            metrics["contrastive"] = jnp.mean(jnp.stack(per_task))
            total = total + loss["weight"] * metrics["contrastive"]
        metrics["loss"] = total
    return total, metrics


def micro_batches(batch: Batch, count: int, shards: int) -> Batch:
    """Splits a batch: `[B, ...]` -> `[count, B / count, ...]`. Each row stays on its device."""

    def cut(x: Array) -> Array:
        x = x.reshape(shards, count, -1, *x.shape[1:])
        return x.swapaxes(0, 1).reshape(count, -1, *x.shape[3:])

    return jax.tree.map(cut, batch)


def gradients(
    model: IPT, params: Params, batch: Batch, config: Mapping[str, Any], shards: int = 1
) -> tuple[Params, dict[str, Array]]:
    """Returns the gradients of the trained parameters, and the metrics of `loss_fn`.

    Both are means over `optim.accumulate` micro-batches.
    """

    def one(part: Batch) -> tuple[Params, dict[str, Array]]:
        def loss(trained: Params) -> tuple[Array, dict[str, Array]]:
            merged = merge_adapters(overlay(params, trained), config)
            return loss_fn(model, merged, part, config["loss"], shards)

        return jax.grad(loss, has_aux=True)(trained_part(params, config))

    count = config["optim"]["accumulate"]
    if count == 1:
        return one(batch)
    parts = micro_batches(batch, count, shards)
    zeros = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype),
        jax.eval_shape(one, jax.tree.map(lambda x: x[0], parts)),
    )
    total, _ = jax.lax.scan(
        lambda sums, part: (jax.tree.map(jnp.add, sums, one(part)), None), zeros, parts
    )
    return jax.tree.map(lambda x: x / count, total)


def train_step(
    model: IPT, config: Mapping[str, Any], shards: int, state: TrainState, batch: Batch
) -> tuple[TrainState, dict[str, Array]]:
    """Takes one step of the optimiser.

    Groups of tasks that are not in the batch keep the same bits. A step whose loss or gradient is
    not finite, or whose loss is a spike, changes nothing but the counters.

    Returns:
      The new state, and the metrics of `loss_fn` with `lr`, `grad_norm` and the counters.
    """
    params = {group: state.params[group] for group in groups_of(batch, state.params)}
    grads, metrics = gradients(model, params, batch, config, shards)
    with jax.named_scope("optimiser"):
        return _apply_gradients(config, state, trained_part(params, config), grads, metrics)


def _apply_gradients(
    config: Mapping[str, Any],
    state: TrainState,
    trained: Params,
    grads: Params,
    metrics: dict[str, Array],
) -> tuple[TrainState, dict[str, Array]]:
    """Returns what `train_step` returns, from the gradients of the trained parameters."""
    settings = config["optim"]
    transform = optim.direction(settings)
    norm = optax.global_norm(grads)
    good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
    usual = state.usual_loss
    if usual is not None:
        good, usual = optim.spike_guard(metrics["loss"], good, usual, settings["max_spike"])
    grads = optim.clip_by_global_norm(grads, norm, settings["clip_norm"])
    rate = optim.schedule(settings)(state.step)

    new, new_moments = {}, dict(state.moments)
    for group in trained:
        direction, moments = transform.update(grads[group], state.moments[group], trained[group])
        moved = jax.tree.map(lambda p, d: p - rate * d, trained[group], direction)
        new[group] = _select(good, moved, trained[group])
        new_moments[group] = _select(good, moments, state.moments[group])

    ema = state.ema
    if ema is not None:
        decay = jnp.where(good, optim.ema_decay(settings["ema"], state.step), 1.0)
        averaged = {
            g: jax.tree.map(lambda e, p: e * decay + p * (1 - decay), ema[g], new[g]) for g in new
        }
        ema = {**ema, **averaged}

    bad = 1 - good.astype(jnp.int32)
    state = TrainState(
        step=state.step + 1,
        params=overlay(state.params, new),
        moments=new_moments,
        ema=ema,
        skipped=state.skipped + bad,
        skipped_in_a_row=(state.skipped_in_a_row + 1) * bad,
        usual_loss=usual,
    )
    return state, {
        **metrics,
        "lr": rate,
        "grad_norm": norm,
        "skipped": state.skipped,
        "skipped_in_a_row": state.skipped_in_a_row,
    }


def _select(good: Array, new: Any, old: Any) -> Any:
    """Returns the tree `new` if the step counts, else the tree `old`."""
    return jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)


def compile_step(model: IPT, config: Mapping[str, Any], mesh: Mesh) -> jax.stages.Wrapped:
    """Returns `train_step` as a jitted function of (state, batch) on a mesh.

    The batch is split among the devices. The state is donated; it is replicated or split, according
    to the config's `sharding`. jax compiles one program for each set of tasks in a batch.
    """
    shards = mesh.size
    replicated, of_state = sharding.replicated(mesh), state_shardings(model, config, mesh)
    if config["sharding"] != "data" and shards > 1:
        in_pieces = config["sharding"] == "fsdp"
        model = model.clone(gather=functools.partial(sharding.gather, mesh, model.dtype, in_pieces))

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        return train_step(model, config, shards, state, batch)

    return jax.jit(
        step,
        in_shardings=(of_state, sharding.split(mesh)),
        out_shardings=(of_state, replicated),
        donate_argnums=0,
    )
