"""What is trained: patterns, frozen parameters bit for bit, adapters, and what they cost."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import runs
import small

from ipt_jax import trees
from ipt_jax.distributed import devices
from ipt_jax.distributed import sharding as partition
from ipt_jax.errors import UserError
from ipt_jax.model import lora
from ipt_jax.model import trainable as adapt
from ipt_jax.step import state as state_module
from ipt_jax.step import train_step as step

LORA = ("finetune.lora_rank=2", "finetune.lora_targets=*attention,mlp", "optim.ema=0.9")


def test_patterns_match_a_parameter_or_what_it_lies_in():
    path = "body/encoder/self_attention/qkv"
    for pattern in (
        "body",
        "body/",
        "body/encoder",
        "body/*",
        "*/self_attention",
        "*qkv",
        "bod[y]",
    ):
        assert trees.matches(path, [pattern]), pattern
    for pattern in ("bod", "encoder", "*/tail", "body/decoder", ""):
        assert not trees.matches(path, [pattern]), pattern


@pytest.fixture(scope="module")
def params():
    return runs.random_params(small.model(small.config()), 0)


def test_parts_are_taken_out_and_laid_over(params):
    plain = small.config("finetune.freeze=body/encoder,*/tail")
    part = adapt.trained(params, plain)
    names = {path for path, _ in trees.paths(part)}
    assert names == {
        p for p, _ in trees.paths(params) if not p.startswith("body/encoder/") and "/tail/" not in p
    }
    new = adapt.overlay(params, jax.tree.map(lambda x: x + 1, part))
    for path, leaf in trees.paths(new):
        np.testing.assert_array_equal(
            leaf, dict(trees.paths(params))[path] + (path in names), err_msg=path
        )
    assert trees.nested(dict(trees.paths(params))).keys() == params.keys()
    whole = adapt.trained(params, small.config())
    assert whole == dict(params)


def test_what_is_unfrozen_is_trained_all_the_same(params):
    plain = small.config(
        "finetune.lora_rank=2", "finetune.freeze=*/head", "finetune.unfreeze=body/*bias,body/*norm*"
    )
    names = {
        path for path, _ in trees.paths(adapt.trained(lora.with_adapters(params, plain), plain))
    }
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
            r"finetune.freeze: 'bdy' matches no parameter; there are body/decoder",
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
        adapt.check(params, small.config(*overrides))


def after(plain, steps: int, names=("sr2", "denoise50")):
    """(first state, state after, metrics), from random parameters, on one device."""
    mesh, network = devices.make_mesh(1), small.model(plain)
    whole = partition.replicated(mesh)
    fresh = jax.jit(lambda params: state_module.init_state(params, plain), out_shardings=whole)
    # A fifth of the size: random weights at full size would make losses that nothing can be read
    # from.
    state = fresh(jax.tree.map(lambda x: 0.2 * x, runs.random_params(network, 3)))
    first = jax.device_get(state)
    train_step = step.compile_step(network, plain, mesh)
    for seed in range(steps):
        state, metrics = train_step(state, partition.put_batch(small.batch(names, 8, seed), mesh))
    return first, jax.device_get(state), jax.device_get(metrics)


def test_frozen_parameters_are_the_same_bits_after_twenty_steps_and_have_no_moments():
    plain = small.config(
        "finetune.freeze=body/encoder,*/embedding,task_sr2/head", "optim.ema=0.9", "batch_size=16"
    )
    first, last, _ = after(plain, 20)
    frozen = adapt.frozen(plain)
    before, trained = (
        dict(trees.paths(first.params)),
        dict(trees.paths(adapt.trained(last.params, plain))),
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
    plain = small.config("finetune.freeze=body", "batch_size=16")
    first, last, _ = after(plain, 2)
    assert set(last.moments) == {"task_sr2", "task_denoise50"}
    for path, leaf in trees.paths(last.params["body"]):
        np.testing.assert_array_equal(leaf, dict(trees.paths(first.params["body"]))[path])


@pytest.fixture(scope="module")
def with_lora():
    plain = small.config(
        *LORA,
        "finetune.freeze=task_*",
        "finetune.lora_alpha=4",
        "batch_size=16",
        "optim.learning_rate=0.01",
    )
    return plain, *after(plain, 5)


def test_adapters_change_nothing_at_first_and_then_only_themselves_move(with_lora):
    plain, first, last, _ = with_lora
    for path, leaf in trees.paths(lora.merged(first.params, plain)):
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
    """Merged: W + a @ b. Unmerged: x @ W + (x @ a) @ b, worked out beside the network on one
    product.
    """
    plain, _, last, _ = with_lora
    merged = lora.merged(last.params, plain)
    rng = np.random.default_rng(0)
    for place, kernel in lora.targets(last.params, plain).items():
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
    network = small.model(plain)
    lq = {name: pair["lq"] for name, pair in small.batch(("sr2", "denoise50"), 2).items()}
    apply = jax.jit(lambda p: network.apply({"params": p}, lq)[0])
    inside = jax.jit(lambda p: network.apply({"params": lora.merged(p, plain)}, lq)[0])(last.params)
    for name, out in apply(merged).items():
        np.testing.assert_allclose(out, inside[name], atol=1e-5 * np.abs(out).max())


def test_muon_moves_the_factors_of_adapters_by_orthogonal_steps():
    plain = small.config(
        *LORA,
        "optim.name=muon",
        "finetune.freeze=task_*",
        "batch_size=16",
        "optim.learning_rate=0.01",
        "optim.warmup_steps=0",
    )
    first, last, _ = after(plain, 1)
    rate, before, moved = plain["optim"]["learning_rate"], dict(trees.paths(first.params)), 0
    for path, leaf in trees.paths(last.params["lora"]):
        change = np.asarray(leaf - before[f"lora/{path}"])
        # Whose gradient is zero as long as b is
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
