"""The training step: devices, drawn and undrawn tasks, accumulation, steps that do not count."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

from ipt_jax.distributed import sharding
from ipt_jax.distributed.devices import make_mesh
from ipt_jax.step import optim
from ipt_jax.step.train_step import gradients, micro_batches

NAMES = ("sr2", "denoise50")


def leaves(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


def assert_same(a, b):
    for (path, x), y in zip(leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def distance(a, b) -> float:
    return float(
        optax.global_norm(jax.tree.map(lambda x, y: jnp.asarray(x) - jnp.asarray(y), a, b))
    )


@pytest.fixture(scope="module")
def config():
    return small.config("optim.ema=0.99", "optim.clip_norm=1.0", "loss.weight=0.2")


@pytest.fixture(scope="module")
def batches():
    return [small.batch(NAMES, 16, seed) for seed in range(5)]


@pytest.fixture(scope="module")
def on_one(config, batches):
    return small.run(config, 1, batches)


@pytest.fixture(scope="module")
def on_eight(config, batches):
    return small.run(config, 8, batches)


def test_first_gradients_do_not_depend_on_the_devices(config, batches):
    network = small.model(config)
    params = network.init_params(0)

    def of(devices):
        mesh = make_mesh(devices)
        function = jax.jit(
            lambda p, b: gradients(network, p, b, config, devices),
            in_shardings=(sharding.replicated(mesh), sharding.split(mesh)),
        )
        grads, metrics = function(
            jax.device_put(params, sharding.replicated(mesh)),
            sharding.put_batch(batches[0], mesh),
        )
        return jax.device_get(grads), float(metrics["loss"])

    one, loss_one = of(1)
    eight, loss_eight = of(8)
    assert loss_eight == pytest.approx(loss_one, rel=1e-6)
    for (path, a), b in zip(leaves(one), jax.tree.leaves(eight), strict=True):
        assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max(), jax.tree_util.keystr(path)


def test_parameters_after_five_steps_do_not_depend_on_the_devices(config, on_one, on_eight):
    first = small.model(config).init_params(config["seed"])
    update = distance(on_one[0].params, first)
    assert update > 0
    assert distance(on_one[0].params, on_eight[0].params) < 1e-3 * update


def test_same_devices_same_bits(config, batches, on_eight):
    again, metrics, _ = small.run(config, 8, batches)
    assert_same(again, on_eight[0])
    assert metrics == on_eight[1]


def test_the_step_compiles_once(on_one, on_eight):
    assert on_one[2]._cache_size() == 1
    assert on_eight[2]._cache_size() == 1


@pytest.mark.parametrize("draw, names", [("all", NAMES), ("one", ("sr2",))])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_nothing_but_reductions_between_devices(draw, names, accumulate):
    config = small.config(
        f"data.draw={draw}", f"optim.accumulate={accumulate}", "batch_size=128", "optim.ema=0.9"
    )
    mesh, state, train_step = small.start(config, 8)
    batch = sharding.put_batch(small.batch(names, 128 // len(names)), mesh)
    text = train_step.lower(state, batch).compile().as_text()
    kinds = set(re.findall(r" ((?:all-|reduce-scatter|collective-|ragged-all)[\w-]*)\(", text))
    assert kinds == {"all-reduce"}


def test_what_was_not_drawn_stays_bit_for_bit(config):
    _, before, train_step = small.start(config, 1)
    mesh = make_mesh(1)

    def put(names, seed):
        return sharding.put_batch(small.batch(names, 8, seed), mesh)

    # Adam would move the parameters further by these moments.
    state, _ = train_step(before, put(NAMES, 0))
    kept = jax.device_get(state)
    for seed in range(1, 4):
        state, _ = train_step(state, put(("sr2",), seed))
    after = jax.device_get(state)
    for part in ("params", "moments", "ema"):
        assert_same(getattr(after, part)["task_denoise50"], getattr(kept, part)["task_denoise50"])
    assert int(after.moments["task_denoise50"].count) == 1
    assert int(after.moments["task_sr2"].count) == int(after.moments["body"].count) == 4
    for group in ("body", "task_sr2"):
        for part in ("params", "ema"):
            for (path, a), b in zip(
                leaves(getattr(after, part)[group]), jax.tree.leaves(getattr(kept, part)[group])
            ):
                assert np.any(a != b), (group, part, jax.tree_util.keystr(path))
    # There is one program for each set of tasks.
    assert train_step._cache_size() == 2


def test_accumulation_is_the_mean_over_micro_batches(config, batches):
    network = small.model(config)
    params = network.init_params(0)
    halves = [jax.tree.map(lambda x, h=h: x[8 * h : 8 * h + 8], batches[0]) for h in (0, 1)]
    gradient = jax.jit(lambda p, b: gradients(network, p, b, config))
    expected = jax.tree.map(lambda a, b: (a + b) / 2, *(gradient(params, half) for half in halves))
    accumulated = {**config, "optim": {**config["optim"], "accumulate": 2}}
    got = jax.jit(lambda p, b: gradients(network, p, b, accumulated))(params, batches[0])
    at_once = gradient(params, batches[0])
    for (path, a), b, c in zip(
        leaves(got), jax.tree.leaves(expected), jax.tree.leaves(at_once), strict=True
    ):
        # The sums have another order, so rounding differs.
        for other in (b, c):
            np.testing.assert_allclose(
                a, other, rtol=0, atol=1e-5 * np.abs(b).max() + 1e-12, err_msg=str(path)
            )


def test_accumulation_on_devices_keeps_rows_in_place(batches):
    parts = micro_batches(jax.tree.map(jnp.asarray, batches[0]), 2, shards=4)
    rows = np.asarray(parts["sr2"]["lq"])
    # Of 16 rows, 4 are on each device. The first micro-batch has the first two of each device.
    rows_in = batches[0]["sr2"]["lq"]
    np.testing.assert_array_equal(
        rows[0], rows_in.reshape(4, 2, 2, 16, 16, 3)[:, 0].reshape(8, 16, 16, 3)
    )
    np.testing.assert_array_equal(
        rows[1], rows_in.reshape(4, 2, 2, 16, 16, 3)[:, 1].reshape(8, 16, 16, 3)
    )


def test_the_update_is_adams(config, batches):
    config = small.config("optim.clip_norm=0.5", "optim.ema=0.9")
    network = small.model(config)
    params = network.init_params(config["seed"])
    reference = optax.chain(
        optax.clip_by_global_norm(0.5), optax.adam(optim.schedule(config["optim"]))
    )
    moments = reference.init(params)
    average = params
    for i, batch in enumerate(batches[:3]):
        grads, _ = jax.jit(lambda p, b: gradients(network, p, b, config))(params, batch)
        updates, moments = reference.update(grads, moments)
        params = optax.apply_updates(params, updates)
        decay = min(0.9, (1 + i) / (10 + i))
        average = jax.tree.map(lambda e, p, d=decay: e * d + p * (1 - d), average, params)
    state, metrics, _ = small.run(config, 1, batches[:3])
    first = network.init_params(config["seed"])
    assert distance(state.params, params) < 1e-4 * distance(params, first)
    assert distance(state.ema, average) < 1e-4 * distance(average, first)
    # The gradient was clipped.
    assert metrics[0]["grad_norm"] > 0.5
    assert metrics[2]["lr"] == pytest.approx(float(optim.schedule(config["optim"])(2)))


def test_muon_moves_matrices_by_orthogonal_steps_and_the_rest_as_adam(config, batches):
    """The singular values of a matrix's first update are about equal; NAdam moves the rest."""
    muon = small.config("optim.name=muon", "optim.warmup_steps=0")
    rate = muon["optim"]["learning_rate"]
    network = small.model(muon)
    before = network.init_params(muon["seed"])
    after, _, _ = small.run(muon, 1, batches[:1])
    grads, _ = jax.jit(lambda p, b: gradients(network, p, b, muon))(before, batches[0])
    nadam = optax.nadam(rate, eps=muon["optim"]["eps"])
    expected = dict(leaves(nadam.update(grads, nadam.init(before))[0]))
    moved = {
        path: np.asarray(b - a)
        for (path, a), b in zip(leaves(before), jax.tree.leaves(after.params))
    }
    matrices = 0
    for path, change in moved.items():
        key = jax.tree_util.keystr(path, simple=True, separator="/")
        if not key.endswith(("kernel", "qkv")) or (change.ndim == 4 and 3 in change.shape[2:]):
            # The tolerance is about 1e-6 of a parameter.
            np.testing.assert_allclose(
                change, expected[path], rtol=0, atol=1e-3 * rate, err_msg=key
            )
            continue
        size = change.shape[-1]
        for matrix in (
            change.reshape(-1, size)[None]
            if change.ndim == 4
            else change.reshape(-1, *change.shape[-2:])
        ):
            values = np.linalg.svd(matrix, compute_uv=False) / (
                0.2 * rate * max(matrix.shape) ** 0.5
            )
            # Muon's five iterations come this close to 1.
            assert np.median(values) > 0.5 and values[0] < 1.3, (key, values)
            matrices += 1
    assert matrices > 20


def test_the_loss_is_the_mean_over_tasks_plus_lambda_times_the_contrast(config, batches, on_one):
    values = on_one[1][0]
    mean = np.mean([values[f"l1/{name}"] for name in NAMES])
    assert values["loss"] == pytest.approx(mean + 0.2 * values["contrastive"], rel=1e-6)
    without = small.run(small.config("loss.contrastive=none"), 1, batches[:1])[1][0]
    assert "contrastive" not in without
    assert without["loss"] == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_only_the_counters(config, batches, poison):
    mesh, state, train_step = small.start(config, 1)
    state, _ = train_step(state, sharding.put_batch(batches[0], mesh))
    kept = jax.device_get(state)
    bad = small.batch(NAMES, 16, 1)
    bad["denoise50"]["lq"][3, 2, 1, 0] = poison
    for _ in range(2):
        state, _ = train_step(state, sharding.put_batch(bad, mesh))
    after = jax.device_get(state)
    assert_same((after.params, after.moments, after.ema), (kept.params, kept.moments, kept.ema))
    assert (int(after.step), int(after.skipped), int(after.skipped_in_a_row)) == (3, 2, 2)
    state, _ = train_step(state, sharding.put_batch(batches[1], mesh))
    assert int(state.skipped_in_a_row) == 0 and int(state.skipped) == 2
    assert distance(jax.device_get(state).params, kept.params) > 0


def test_it_learns(config):
    """From the identity start, the loss on one batch of flat images with noise halves."""
    rng = np.random.default_rng(0)
    flat = np.broadcast_to(rng.integers(60, 200, (16, 1, 1, 3)), (16, 16, 16, 3)).astype(np.uint8)
    noisy = np.clip(flat + 40 * rng.standard_normal(flat.shape), 0, 255).astype(np.float32)
    batch = {"denoise50": {"lq": noisy, "hq": flat}}
    quick = small.config(
        "tasks=('denoise50',)",
        "batch_size=16",
        "optim.learning_rate=3e-3",
        "optim.schedule_steps=60",
    )
    _, metrics, _ = small.run(quick, 1, [batch] * 60)
    assert metrics[-1]["l1/denoise50"] < 0.5 * metrics[0]["l1/denoise50"]


def test_bfloat16_trains_with_a_finite_float32_loss(batches):
    state, metrics, _ = small.run(
        small.config("model.dtype=bfloat16", "model.remat=layer"), 1, batches[:2]
    )
    exact = small.run(small.config(), 1, batches[:2])[1]
    assert metrics[0]["loss"] == pytest.approx(exact[0]["loss"], rel=1e-2)
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(state.params))


def test_groups_never_cross_devices(batches):
    config = small.config()
    with pytest.raises(ValueError, match="8 rows a task on 8 device"):
        jax.eval_shape(
            lambda b: gradients(
                small.model(config), small.model(config).init_params(0), b, config, 8
            ),
            small.batch(NAMES, 8),
        )


def test_more_devices_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="devices=99 asked for, but there are 8"):
        make_mesh(99)


def test_recomputation_changes_no_gradient(batches):
    found = {}
    for remat in ("none", "elementwise"):
        config = small.config(f"model.remat={remat}")
        network = small.model(config)
        found[remat] = jax.jit(lambda p, b, m=network, c=config: gradients(m, p, b, c)[0])(
            network.init_params(0), batches[0]
        )
    for (path, a), b in zip(
        leaves(found["none"]), jax.tree.leaves(found["elementwise"]), strict=True
    ):
        assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max(), jax.tree_util.keystr(path)
