"""The training step: a pure function of (state, batch), one compiled program for all tasks of the
batch.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from ipt_jax.distributed import sharding as partition
from ipt_jax.model import IPT, lora
from ipt_jax.model import trainable as adapt
from ipt_jax.step import losses, optim
from ipt_jax.step.state import TrainState, state_shardings

Params = dict[str, Any]


Array = jax.Array

Batch = Mapping[str, Mapping[str, Array]]


def groups_of(batch: Mapping[str, Any], params: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """The parameter groups that a batch goes through: the body, what belongs to its tasks, adapters
    if there are any.
    """
    adapters = (lora.LORA,) if lora.LORA in (params or ()) else ()
    return ("body", *(f"task_{name}" for name in batch), *adapters)


def loss_fn(
    model: IPT, params: Params, batch: Batch, loss: Mapping[str, Any], shards: int
) -> tuple[Array, dict[str, Array]]:
    """Mean over the tasks of L1 (0..255), plus lambda times the mean over groups of the contrastive
    term.
    """
    if model.gather is not None:
        params = model.gather(params)
    outputs, tokens = model.apply(
        {"params": params}, {name: pair["lq"] for name, pair in batch.items()}, shards
    )
    metrics = {f"l1/{name}": losses.l1(outputs[name], pair["hq"]) for name, pair in batch.items()}
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
    """`[B, ...]` -> `[count, B / count, ...]`, each row staying on its device."""

    def cut(x: Array) -> Array:
        x = x.reshape(shards, count, -1, *x.shape[1:])
        return x.swapaxes(0, 1).reshape(count, -1, *x.shape[3:])

    return jax.tree.map(cut, batch)


def gradients(
    model: IPT, params: Params, batch: Batch, config: Mapping[str, Any], shards: int = 1
) -> tuple[Params, dict[str, Array]]:
    """Gradients of the trained parameters, and metrics: the mean over `optim.accumulate`
    micro-batches.
    """

    def one(part: Batch) -> tuple[Params, dict[str, Array]]:
        def loss(trained: Params) -> tuple[Array, dict[str, Array]]:
            whole = lora.merged(adapt.overlay(params, trained), config)
            return loss_fn(model, whole, part, config["loss"], shards)

        return jax.grad(loss, has_aux=True)(adapt.trained(params, config))

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
    """One step of the optimiser on the groups that the batch trains; what was not drawn stays bit
    for bit as it was.

    A step whose loss or gradient is not finite, or whose loss is a spike, changes nothing but the
    counters.
    """
    settings = config["optim"]
    transform = optim.direction(settings)
    params = {group: state.params[group] for group in groups_of(batch, state.params)}
    grads, metrics = gradients(model, params, batch, config, shards)
    trained = adapt.trained(params, config)
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
        keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)  # noqa: E731
        new[group] = keep(moved, trained[group])
        new_moments[group] = keep(moments, state.moments[group])

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
        params=adapt.overlay(state.params, new),
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


def compile_step(model: IPT, config: Mapping[str, Any], mesh: Mesh) -> jax.stages.Wrapped:
    """`train_step`, jitted for a mesh: batch split, state donated and, as `sharding` says, whole or
    in pieces.

    One program for each layout of a batch.
    """
    shards = mesh.size
    whole, kept = partition.replicated(mesh), state_shardings(model, config, mesh)
    if config["sharding"] == "fsdp" and shards > 1:
        model = model.clone(gather=functools.partial(partition.gather, mesh, model.dtype))

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        return train_step(model, config, shards, state, batch)

    return jax.jit(
        step,
        in_shardings=(kept, partition.split(mesh)),
        out_shardings=(kept, whole),
        donate_argnums=0,
    )
