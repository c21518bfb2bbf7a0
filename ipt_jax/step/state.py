"""The state of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ipt_jax.distributed import sharding as partition
from ipt_jax.model import IPT, lora
from ipt_jax.model import trainable as adapt
from ipt_jax.step import optim

Array = jax.Array


Params = dict[str, Any]


@flax.struct.dataclass
class TrainState:
    """Everything that a run carries from step to step. The state saved at step i is the one before
    batch i.

    Attributes:
      step: batches taken.
      params: float32 parameters, `{"body", "task_<name>"}`: the groups; with adapters "lora" too
        (adapt.py).
      moments: the optimiser's state for each group's trained parameters; groups without any have
        none.
      ema: moving average of the trained parameters, or None.
      skipped: steps that changed nothing because loss or gradient was not finite or the loss a
        spike, in all and in a row.
      usual_loss: moving average of the loss, or None where no guard against spikes needs it.
    """

    step: Array
    params: Params
    moments: dict[str, Any]
    ema: Params | None
    skipped: Array
    skipped_in_a_row: Array
    usual_loss: Array | None = None


def init_state(params: Params, config: Mapping[str, Any]) -> TrainState:
    """The state before the first step."""
    transform = optim.direction(config["optim"])
    params = lora.with_adapters(params, config)
    trained = adapt.trained(params, config)

    # A buffer each, since the state is donated
    def zero() -> Array:
        return jnp.zeros((), jnp.int32)

    return TrainState(
        step=zero(),
        params=params,
        moments={group: transform.init(tree) for group, tree in trained.items()},
        ema=jax.tree.map(jnp.copy, trained) if config["optim"]["ema"] else None,
        skipped=zero(),
        skipped_in_a_row=zero(),
        usual_loss=jnp.full((), jnp.inf) if config["optim"]["max_spike"] else None,
    )


def abstract_state(model: IPT, config: Mapping[str, Any]) -> TrainState:
    """Shapes and dtypes of the state."""
    return jax.eval_shape(lambda: init_state(model.init_params(0), config))


def state_shardings(model: IPT, config: Mapping[str, Any], mesh: Mesh) -> Any:
    """Where each leaf of the state is, by the config's `sharding`."""
    return partition.state_shardings(abstract_state(model, config), mesh, config["sharding"])
