"""Sharded and replicated states: equal numbers, shared checkpoints, what moves between devices."""

from __future__ import annotations

import re

import jax
import numpy as np
import optax
import pytest
import small

from ipt_jax.checkpoints.checkpoints import Checkpoints
from ipt_jax.distributed import devices
from ipt_jax.distributed import sharding as shardings
from ipt_jax.distributed.process_group import ProcessGroup
from ipt_jax.model import build, preset
from ipt_jax.step import state as state_module
from ipt_jax.step import train_step as step
from ipt_jax.tasks import make_tasks
from ipt_jax.tpu import hlo
from ipt_jax.train.identity import Run
from ipt_jax.train.saved_state import first_state

NAMES = ("sr2", "denoise50")
DEVICES = 8


@pytest.fixture(scope="module", autouse=True)
def small_leaves_too():
    """Lets small leaves be split, because the small model has no others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shardings, "SMALL", 100)
        yield


@pytest.fixture(scope="module")
def batches():
    return [small.batch(NAMES, 16, seed) for seed in range(3)]


def settings(sharding: str):
    return small.config(
        f"sharding={sharding}", "optim.ema=0.99", "optim.clip_norm=1.0", "model.remat=elementwise"
    )


def torus() -> jax.sharding.Mesh:
    """Returns the simulated devices as a slice of 4 x 2 chips."""
    grid = np.array(jax.devices()).reshape(4, 2)
    return jax.sharding.Mesh(grid, shardings.AXES, axis_types=(jax.sharding.AxisType.Auto,) * 2)


# How a state can lie on the devices: the value of `sharding`, and the mesh.
LAYOUTS = {
    "data": ("data", lambda: devices.make_mesh(DEVICES)),
    "zero1": ("zero1", lambda: devices.make_mesh(DEVICES)),
    "fsdp": ("fsdp", lambda: devices.make_mesh(DEVICES)),
    "fsdp on a torus": ("fsdp", torus),
}


def start(layout, checkpoints):
    """Returns mesh, state, compiled step and the state's step, as `pretrain` makes them."""
    sharding, make_mesh = LAYOUTS[layout]
    config = settings(sharding)
    mesh, model = make_mesh(), small.model(config)
    run = Run(checkpoints.directory.parent, config, {})
    state, at = first_state(run, model, mesh, ProcessGroup(), checkpoints)
    return mesh, state, step.compile_step(model, config, mesh), at


@pytest.fixture(scope="module")
def runs(batches, tmp_path_factory):
    """For each layout: the final state, the metrics, the folder of checkpoint 3, and the HLO."""
    found = {}
    for layout, (sharding, _) in LAYOUTS.items():
        folder = tmp_path_factory.mktemp(layout)
        with Checkpoints(folder, asynchronous=False) as checkpoints:
            mesh, state, jitted, _ = start(layout, checkpoints)
            train_step = jitted.lower(state, shardings.put_batch(batches[0], mesh)).compile()
            text = train_step.as_text()
            metrics = []
            for one in batches:
                state, values = train_step(state, shardings.put_batch(one, mesh))
                metrics.append({k: float(v) for k, v in values.items()})
            checkpoints.save(3, state, {"config": settings(sharding), "data": {}})
        found[layout] = state, metrics, folder, text
    return found


@pytest.mark.parametrize("layout", ["zero1", "fsdp", "fsdp on a torus"])
def test_the_numbers_are_those_of_whole_parameters(runs, layout):
    (whole, one, *_), (pieces, other, *_) = runs["data"], runs[layout]
    for a, b in zip(one, other):
        assert a.keys() == b.keys()
        for key in a:
            assert b[key] == pytest.approx(a[key], rel=1e-5), key
    first = small.model(settings("data")).init_params(0)
    assert distance(whole.params, pieces.params) < 1e-3 * distance(whole.params, first)
    assert distance(whole.ema, pieces.ema) < 1e-3 * distance(whole.ema, first)


def distance(a, b) -> float:
    """Returns the norm of the difference of two trees."""
    return float(optax.global_norm(jax.tree.map(lambda x, y: np.asarray(x) - np.asarray(y), a, b)))


@pytest.mark.parametrize("layout", ["fsdp", "fsdp on a torus"])
def test_large_leaves_are_in_pieces_and_stay_so(runs, layout):
    state = runs[layout][0]
    for tree in (
        state.params["body"],
        state.ema["body"],
        state.moments["body"].mu,
        state.moments["body"].nu,
    ):
        # [layers, D, 3 D]
        kernel = tree["encoder"]["self_attention"]["qkv"]
        assert kernel.addressable_shards[0].data.shape == (2, 8, 192)
        assert tree["encoder"]["norm1"]["norm"]["scale"].sharding.is_fully_replicated
    per_device = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state))
    assert per_device < sum(x.nbytes for x in jax.tree.leaves(state)) / 4
    assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(runs["data"][0]))


def test_zero1_splits_moments_and_ema_alone(runs):
    state = runs["zero1"][0]
    assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(state.params))
    for tree in (state.ema["body"], state.moments["body"].mu, state.moments["body"].nu):
        kernel = tree["encoder"]["self_attention"]["qkv"]
        assert kernel.addressable_shards[0].data.shape == (2, 8, 192)


def test_only_parameters_and_gradients_move(runs):
    """Every array that moves is a parameter, one layer's slice of it, or has a few numbers."""
    params = jax.tree.leaves(runs["data"][0].params)
    shapes = {x.shape for x in params} | {x.shape[1:] for x in params}
    # On a torus, four or two devices gather first.
    sizes = {int(np.prod(shape)) // pieces for shape in shapes for pieces in (1, 2, 4, DEVICES)}
    fsdp = {"all-reduce", "reduce-scatter", "all-gather"}
    for layout, kinds in (
        ("data", {"all-reduce"}),
        ("zero1", fsdp),
        ("fsdp", fsdp),
        # The order of pieces may have to be turned between two gathers of biases.
        ("fsdp on a torus", fsdp | {"collective-permute", "all-to-all"}),
    ):
        program = hlo.read_program(runs[layout][3])
        assert program.collectives and {c.kind for c in program.collectives} <= kinds
        for one in program.collectives:
            for shape in one.shapes:
                elements = hlo.shape_bytes("u8" + shape[shape.index("[") :])
                assert elements in sizes or elements <= 64, (layout, one.kind, shape, one.source)
    program = hlo.read_program(runs["fsdp"][3])
    gathers = [c for c in program.collectives if c.kind == "all-gather"]
    # The gathers are in the loop over the encoder's two layers, not before it.
    assert any(c.times == 2 for c in gathers)


def test_parameters_travel_in_the_dtype_of_the_computation():
    """A CPU's compiler turns bfloat16 into float32, so this reads the program before it."""
    config = small.config("sharding=fsdp", "model.dtype=bfloat16")
    mesh, model = devices.make_mesh(DEVICES), small.model(config)
    state = state_module.abstract_state(model, config)
    lowered = step.compile_step(model, config, mesh).lower(state, small.batch(NAMES, 16))
    text = lowered.as_text()
    # A gather is a constraint to whole arrays, of what was cast while it was in pieces.
    held = re.findall(r"sdy.sharding_constraint .* : tensor<([\dx]+)(\w+)>", text)
    qkv = [kind for shape, kind in held if shape == "64x192x"]
    assert qkv and set(qkv) == {"bf16"}, held


@pytest.mark.parametrize(
    "saved, wanted",
    [("data", "fsdp"), ("fsdp", "data"), ("fsdp", "fsdp on a torus"), ("data", "zero1")],
)
def test_a_checkpoint_of_one_goes_on_as_the_other(runs, batches, saved, wanted):
    before, _, folder, _ = runs[saved]
    with Checkpoints(folder) as checkpoints:
        mesh, state, train_step, at = start(wanted, checkpoints)
    assert at == 3
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(state), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=jax.tree_util.keystr(path))
    assert state.params["body"]["mlp"]["in"]["kernel"].sharding.is_fully_replicated == (
        wanted in ("data", "zero1")
    )
    _, one = train_step(state, shardings.put_batch(batches[0], mesh))
    assert np.isfinite(float(one["loss"]))


def test_the_preset_of_a_billion_parameters_is_one_and_splits_over_a_pod():
    model = build(
        preset("ipt_1b"), make_tasks(("sr2", "sr3", "sr4", "derain", "denoise30", "denoise50"))
    )
    state = state_module.abstract_state(model, small.config("sharding=fsdp"))
    leaves = jax.tree.leaves(state.params)
    assert sum(x.size for x in leaves) == pytest.approx(1e9, rel=0.02)
    pod = jax.sharding.AbstractMesh((256,), (shardings.DATA,))
    pieces = jax.tree.leaves(shardings.state_shardings(state.params, pod, "fsdp"))
    split = sum(x.size for x, piece in zip(leaves, pieces) if not piece.is_fully_replicated)
    assert split > 0.98 * sum(x.size for x in leaves)


def test_one_device_has_nothing_to_split():
    mesh = devices.make_mesh(1)
    state = state_module.abstract_state(small.model(settings("fsdp")), settings("fsdp"))
    found = shardings.state_shardings(state, mesh, "fsdp")
    assert all(sharding.is_fully_replicated for sharding in jax.tree.leaves(found))
