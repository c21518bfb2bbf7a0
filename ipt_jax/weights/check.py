"""Checks whether parameters are those of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ipt_jax import trees
from ipt_jax.errors import WeightsError
from ipt_jax.model import IPT
from ipt_jax.weights.state_dict import abstract


def check_params(params: Mapping[str, Any], model: IPT, what: str) -> None:
    """Checks parameters by name, shape and dtype, and that all values are finite.

    Args:
      params: nested dicts of arrays.
      model: the model.
      what: where the parameters come from, for the message.

    Raises:
      WeightsError: the parameters are not the model's; all differences are listed.
    """
    want = trees.flatten(abstract(model))
    have = trees.flatten(params)
    wrong = [f"{k}: missing" for k in want.keys() - have.keys()] + [
        f"{k}: unexpected" for k in have.keys() - want.keys()
    ]
    for key in want.keys() & have.keys():
        if have[key].shape != want[key].shape:
            wrong.append(f"{key}: {list(have[key].shape)}, not {list(want[key].shape)}")
        elif have[key].dtype != np.float32:
            wrong.append(f"{key}: {have[key].dtype}, not float32")
        elif not np.isfinite(have[key]).all():
            wrong.append(f"{key}: it contains values that are not finite")
    if wrong:
        raise WeightsError(
            f"{what} does not contain this model's weights:\n  " + "\n  ".join(sorted(wrong))
        )
