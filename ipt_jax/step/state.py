"""The training state: parameters, optimiser moments, EMA and counters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ipt_jax.distributed import sharding
from ipt_jax.model import IPT
from ipt_jax.model.lora import add_adapters
from ipt_jax.model.trainable import trained_part
from ipt_jax.step import optim

Array = jax.Array
Params = dict[str, Any]


@flax.struct.dataclass
class TrainState:
    """Everything that a run carries from step to step. The state saved at step i precedes batch i.

    Attributes:
      step: the number of batches taken.
      params: float32 parameters by group, `{"body", "task_<name>"}`, and "lora" with adapters.
      moments: the optimiser's state of each group that has trained parameters.
      ema: the moving average of the trained parameters, or None.
      skipped: the number of steps that changed nothing, because the loss or the gradient was not
        finite or the loss was a spike.
      skipped_in_a_row: the number of such steps since the last step that counted.
      usual_loss: a moving average of the loss, or None if there is no limit for spikes.
    """

    step: Array
    params: Params
    moments: dict[str, Any]
    ema: Params | None
    skipped: Array
    skipped_in_a_row: Array
    usual_loss: Array | None = None


def init_state(params: Params, config: Mapping[str, Any]) -> TrainState:
    """Returns the state before the first step.

    Args:
      params: the network's parameters, without adapters.
      config: a resolved config.
    """
    transform = optim.direction(config["optim"])
    params = add_adapters(params, config)
    trained = trained_part(params, config)

    def zero() -> Array:
        # Each counter needs its own buffer, because the step donates the buffers of the state.
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
    """Returns the shapes and dtypes of the state."""
    return jax.eval_shape(lambda: init_state(model.init_params(0), config))


def state_shardings(model: IPT, config: Mapping[str, Any], mesh: Mesh) -> Any:
    """Returns the sharding of each leaf of the state, according to the config's `sharding`."""
    state, kind = abstract_state(model, config), config["sharding"]
    found = sharding.state_shardings(state, mesh, kind)
    if kind != "zero1":
        return found
    return found.replace(params=sharding.state_shardings(state.params, mesh, "data"))
