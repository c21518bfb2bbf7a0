"""The networks that studies/ compares."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from ipt_jax import authors, load, weights_folder
from ipt_jax.model import build, preset
from ipt_jax.restorer import Restorer
from ipt_jax.tasks import TASKS
from ipt_jax.weights import WeightsError

PARTS = {
    "no decoder": dict(decoder_layers=0),
    "no encoder": dict(encoder_layers=0),
    "no body": dict(encoder_layers=0, decoder_layers=0),
    "LayerNorm on the memory": dict(memory_norm=True),
}


@pytest.mark.parametrize("part", PARTS)
def test_networks_of_the_studies(part, tmp_path):
    """Parts left out or added: all that is there is trained, and weights folders keep it; the authors' form cannot."""
    tasks = [TASKS["sr2"], TASKS["denoise50"]]
    model = build({**preset("tiny"), **small.MODEL, **PARTS[part]}, tasks)
    lq = {task.name: np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype(np.float32) for task in tasks}
    params = model.init_params(0)

    def loss(params):
        outputs, _ = model.apply({"params": params}, lq)
        return sum(jnp.mean(jnp.abs(outputs[name])) for name in outputs), outputs

    (_, outputs), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    silent = {jax.tree_util.keystr(path) for path, g in jax.tree_util.tree_leaves_with_path(grads) if not np.any(g)}
    assert silent == ({f"['task_{t.name}']['embedding']" for t in tasks} if model.decoder_layers == 0 else set())
    assert ("norm_memory" in grads["body"].get("decoder", {})) == model.memory_norm

    restorer = Restorer(model, params, {task.name: task for task in tasks}, {})
    weights_folder.write(restorer, tmp_path / "weights")
    again = load(tmp_path / "weights")
    assert again.model.memory_norm == model.memory_norm
    same, _ = jax.jit(lambda p, x: again.model.apply({"params": p}, x))(again.params, lq)
    for name in outputs:
        np.testing.assert_allclose(same[name], outputs[name], rtol=1e-5, atol=1e-3)  # of 255
    with pytest.raises(WeightsError, match="the authors' code has no network"):
        authors.write(restorer, tmp_path / "x.safetensors", "safetensors")
