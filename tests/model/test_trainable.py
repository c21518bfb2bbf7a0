"""Which parameters are trained: patterns, frozen parameters and adapters."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import runs
import small

from ipt_jax import trees
from ipt_jax.distributed import sharding
from ipt_jax.distributed.devices import make_mesh
from ipt_jax.errors import UserError
from ipt_jax.model.lora import adapter_targets, add_adapters, merge_adapters
from ipt_jax.model.trainable import check_trainable, freeze_rule, overlay, trained_part
from ipt_jax.step.state import init_state
from ipt_jax.step.train_step import compile_step

LORA = ("finetune.lora_rank=2", "finetune.lora_targets=*attention,mlp", "optim.ema=0.9")


@pytest.fixture(scope="module")
def params():
    return runs.random_params(small.model(small.config()), 0)


def test_parts_are_taken_out_and_laid_over(params):
    config = small.config("finetune.freeze=body/encoder,*/tail")
    part = trained_part(params, config)
    names = {path for path, _ in trees.paths(part)}
    assert names == {
        p for p, _ in trees.paths(params) if not p.startswith("body/encoder/") and "/tail/" not in p
    }
    new = overlay(params, jax.tree.map(lambda x: x + 1, part))
    for path, leaf in trees.paths(new):
        np.testing.assert_array_equal(
            leaf, dict(trees.paths(params))[path] + (path in names), err_msg=path
        )
    assert trees.nested(dict(trees.paths(params))).keys() == params.keys()
    assert trained_part(params, small.config()) == dict(params)


def test_what_is_unfrozen_is_trained_all_the_same(params):
    config = small.config(
        "finetune.lora_rank=2", "finetune.freeze=*/head", "finetune.unfreeze=body/*bias,body/*norm*"
    )
    names = {path for path, _ in trees.paths(trained_part(add_adapters(params, config), config))}
    body = {name for name in names if name.startswith("body/")}
    assert body == {
        p
        for p, _ in trees.paths(params)
        if p.startswith("body/") and ("norm" in p or p.endswith("bias"))
    }
    assert "body/encoder/norm1/norm/scale" in body and "body/encoder/feed_forward/in/bias" in body
    assert not any("/head/" in name for name in names) and any("/tail/" in name for name in names)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["finetune.freeze=body", "finetune.unfreeze=body/nrm"],
            r"finetune.unfreeze: 'body/nrm' matches no parameter",
        ),
        (["finetune.unfreeze=body/*bias"], "finetune.unfreeze: nothing is frozen"),
        (
            ["finetune.freeze=bdy"],
            r"finetune.freeze: 'bdy' matches no parameter; known: body/decoder",
        ),
        (["finetune.freeze=body,task_*"], "freezes every parameter"),
        (
            ["finetune.lora_rank=2", "finetune.lora_targets=*attn"],
            r"lora_targets: '\*attn' matches none .* encoder/self_attention/qkv",
        ),
    ],
)
def test_patterns_that_mean_nothing_are_refused(params, overrides, message):
    with pytest.raises(UserError, match=message):
        check_trainable(params, small.config(*overrides))


def after(config, steps: int, names=("sr2", "denoise50")):
    """Trains random parameters on one device; returns the first state, the last and metrics."""
    mesh, network = make_mesh(1), small.model(config)
    replicated = sharding.replicated(mesh)
    fresh = jax.jit(lambda params: init_state(params, config), out_shardings=replicated)
    # Random weights are scaled down, because those of full size would give meaningless losses.
    state = fresh(jax.tree.map(lambda x: 0.2 * x, runs.random_params(network, 3)))
    first = jax.device_get(state)
    train_step = compile_step(network, config, mesh)
    for seed in range(steps):
        state, metrics = train_step(state, sharding.put_batch(small.batch(names, 8, seed), mesh))
    return first, jax.device_get(state), jax.device_get(metrics)


def test_frozen_parameters_are_the_same_bits_after_twenty_steps_and_have_no_moments():
    config = small.config(
        "finetune.freeze=body/encoder,*/embedding,task_sr2/head", "optim.ema=0.9", "batch_size=16"
    )
    first, last, _ = after(config, 20)
    frozen = freeze_rule(config)
    before, trained = (
        dict(trees.paths(first.params)),
        dict(trees.paths(trained_part(last.params, config))),
    )
    assert int(last.step) == 20 and int(last.skipped) == 0
    for path, leaf in trees.paths(last.params):
        same = np.array_equal(leaf, before[path])
        assert same == frozen(path), path
    assert dict(trees.paths(last.ema)).keys() == trained.keys()
    mu = {f"{g}/{p}" for g, m in last.moments.items() for p, _ in trees.paths(m.mu)}
    nu = {f"{g}/{p}" for g, m in last.moments.items() for p, _ in trees.paths(m.nu)}
    assert mu == nu == set(trained) and any(p.startswith("task_sr2/tail") for p in mu)


def test_only_the_ends_are_trained_when_the_body_is_frozen():
    config = small.config("finetune.freeze=body", "batch_size=16")
    first, last, _ = after(config, 2)
    assert set(last.moments) == {"task_sr2", "task_denoise50"}
    for path, leaf in trees.paths(last.params["body"]):
        np.testing.assert_array_equal(leaf, dict(trees.paths(first.params["body"]))[path])


@pytest.fixture(scope="module")
def with_lora():
    config = small.config(
        *LORA,
        "finetune.freeze=task_*",
        "finetune.lora_alpha=4",
        "batch_size=16",
        "optim.learning_rate=0.01",
    )
    return config, *after(config, 5)


def test_adapters_change_nothing_at_first_and_then_only_themselves_move(with_lora):
    config, first, last, _ = with_lora
    for path, leaf in trees.paths(merge_adapters(first.params, config)):
        np.testing.assert_array_equal(leaf, dict(trees.paths(first.params))[path])
    before = dict(trees.paths(first.params))
    moved = {
        path for path, leaf in trees.paths(last.params) if not np.array_equal(leaf, before[path])
    }
    assert moved == {path for path in before if path.startswith("lora/")} and len(moved) > 8
    assert set(last.moments) == {"lora"} and set(last.ema) == {"lora"}
    sizes = {path: leaf.shape for path, leaf in trees.paths(last.params["lora"])}
    assert sizes["encoder/self_attention/qkv/a"] == (2, 64, 2) and sizes[
        "encoder/self_attention/qkv/b"
    ] == (2, 2, 192)
    assert sizes["mlp/in/kernel/b"] == (2, 256)


def test_merged_weights_give_the_same_tokens_and_pictures(with_lora):
    """Compares x @ (W + a @ b) with x @ W + (x @ a) @ b, for single matrices and the network."""
    config, _, last, _ = with_lora
    merged = merge_adapters(last.params, config)
    rng = np.random.default_rng(0)
    for place, kernel in adapter_targets(last.params, config).items():
        pair = last.params["lora"]
        for key in place.split("/"):
            pair = pair[key]
        x = rng.normal(size=(*kernel.shape[:-2], 9, kernel.shape[-2])).astype(np.float32)
        unmerged = x @ kernel + (4 / 2) * ((x @ pair["a"]) @ pair["b"])
        together = x @ dict(trees.paths(merged["body"]))[place]
        assert np.abs(pair["b"]).max() > 1e-3
        np.testing.assert_allclose(
            together, unmerged, atol=2e-6 * np.abs(unmerged).max(), err_msg=place
        )
    network = small.model(config)
    lq = {name: pair["lq"] for name, pair in small.batch(("sr2", "denoise50"), 2).items()}
    apply = jax.jit(lambda p: network.apply({"params": p}, lq)[0])
    inside = jax.jit(lambda p: network.apply({"params": merge_adapters(p, config)}, lq)[0])(
        last.params
    )
    for name, out in apply(merged).items():
        np.testing.assert_allclose(out, inside[name], atol=1e-5 * np.abs(out).max())


def test_adapters_of_equal_shapes_start_apart():
    config = small.config("finetune.lora_rank=2")
    adapters = add_adapters(small.model(config).init_params(0), config)["lora"]
    starts: dict = {}
    for path, leaf in trees.paths(adapters):
        if path[-1] == "a":
            starts.setdefault(leaf.shape, []).append(np.asarray(leaf))
    assert any(len(same) > 1 for same in starts.values())
    for same in starts.values():
        for i, one in enumerate(same):
            assert all(np.abs(one - other).max() > 0.01 for other in same[:i])


def test_muon_moves_the_factors_of_adapters_by_orthogonal_steps():
    config = small.config(
        *LORA,
        "optim.name=muon",
        "finetune.freeze=task_*",
        "batch_size=16",
        "optim.learning_rate=0.01",
        "optim.warmup_steps=0",
    )
    first, last, _ = after(config, 1)
    rate, before, moved = config["optim"]["learning_rate"], dict(trees.paths(first.params)), 0
    for path, leaf in trees.paths(last.params["lora"]):
        change = np.asarray(leaf - before[f"lora/{path}"])
        # The gradient of `a` is zero as long as `b` is zero.
        if path.endswith("/a"):
            assert not change.any(), path
            continue
        for matrix in change.reshape(-1, *change.shape[-2:]):
            values = np.linalg.svd(matrix, compute_uv=False) / (
                0.2 * rate * max(matrix.shape) ** 0.5
            )
            assert len(values) == 2 and values[1] > 0.5 and values[0] < 1.3, (path, values)
            moved += 1
    assert moved > 8
