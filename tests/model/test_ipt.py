"""The network: outputs of the authors' published inference code, sizes, initialisation."""

from __future__ import annotations

import functools

import cv2
import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipt_jax.data.sources.embedded import embedded
from ipt_jax.model import IPT, build, preset
from ipt_jax.model.attention import attention_weights
from ipt_jax.model.layers import features_of, pixel_shuffle, tokens_of
from ipt_jax.model.norms import LayerNorm
from ipt_jax.tasks import PAPER_TASKS, TASKS, make_tasks
from ipt_jax.weights.state_dict import params_from_torch, params_to_torch

# Relative to the largest magnitude. On the CPU, float32 is within 5e-7 of the float64 originals.
BOUND = 2e-6


@pytest.fixture(scope="module")
def stored() -> np.lib.npyio.NpzFile:
    return np.load(golden.FILE)


@functools.cache
def tiny_outputs(out_bias: bool):
    model = golden.tiny(out_bias)
    file = "tiny_out_bias" if out_bias else "tiny"
    image = np.load(golden.FILE)[f"{file}/image"][None]
    params = golden.params(model, seed=3 if out_bias else 0)

    def run(params, image):
        outputs, tokens = model.apply({"params": params}, {name: image for name in model.names})
        heads = {
            name: model.apply(
                {"params": params},
                image.astype(jnp.float32) - jnp.array(IPT_MEAN),
                name,
                method=head_of,
            )
            for name in model.names
        }
        return outputs, tokens, heads

    return jax.jit(run)(params, image)


IPT_MEAN = np.array([0.4488, 0.4371, 0.4040], np.float32) * 255


def head_of(model: IPT, x, name):
    return model.task[name].head(x)


@pytest.mark.parametrize("task", [name for name, _ in golden.SCALES])
def test_tiny_model_is_the_authors(stored, task):
    outputs, tokens, heads = tiny_outputs(False)
    body = features_of(tokens[task], 3, 48, 48)
    assert golden.difference(heads[task][0], stored, f"tiny/{task}/head") < BOUND
    assert golden.difference(tokens[task][0], stored, f"tiny/{task}/tokens") < BOUND
    assert golden.difference(body[0], stored, f"tiny/{task}/body") < BOUND
    assert golden.difference(outputs[task][0], stored, f"tiny/{task}/output") < BOUND


@pytest.mark.parametrize("task", [name for name, _ in golden.SCALES])
def test_output_projection_bias_is_applied_where_there_is_one(stored, task):
    outputs, _, _ = tiny_outputs(True)
    assert golden.difference(outputs[task][0], stored, f"tiny_out_bias/{task}/output") < BOUND


@pytest.mark.slow
def test_full_size_model_is_the_authors(stored):
    model = IPT(golden.SCALES)
    params = golden.params(model, seed=0)
    image = stored["full/image"][None]
    for task in ("sr4", "denoise50"):
        outputs, _ = jax.jit(lambda p, x, t=task: model.apply({"params": p}, {t: x}))(params, image)
        assert golden.difference(outputs[task][0], stored, f"full/{task}/output") < BOUND


def test_one_task_alone_computes_the_same(stored):
    model = golden.tiny()
    params, image = golden.params(model, 0), stored["tiny/image"][None]
    alone, _ = jax.jit(lambda p, x: model.apply({"params": p}, {"sr3": x}))(params, image)
    together = tiny_outputs(False)[0]["sr3"]
    np.testing.assert_allclose(alone["sr3"], together, rtol=0, atol=2e-6 * np.abs(together).max())


@pytest.mark.parametrize("shards", [2, 4])
def test_shards_change_only_the_order_of_work(shards):
    model = golden.tiny()
    params = golden.params(model, 0)
    rng = np.random.default_rng(0)
    lq = {name: rng.integers(0, 256, (4, 48, 48, 3)).astype(np.uint8) for name in ("sr2", "derain")}
    one, _ = jax.jit(lambda p, x: model.apply({"params": p}, x))(params, lq)
    many, _ = jax.jit(lambda p, x: model.apply({"params": p}, x, shards))(params, lq)
    for name in lq:
        np.testing.assert_allclose(
            many[name], one[name], rtol=0, atol=1e-5 * np.abs(one[name]).max()
        )


# Parameters in the authors' files, without the 24 constants of the mean shift.
@pytest.mark.parametrize(
    "scales, count",
    [
        ((("denoise30", 1),), 115_312_707),
        ((("sr2", 2),), 115_460_419),
        ((("sr3", 3),), 115_645_059),
        ((("sr4", 4),), 115_608_131),
        (golden.SCALES, 118_892_370),
    ],
)
def test_parameter_counts(scales, count):
    shapes = jax.eval_shape(lambda: IPT(scales).init_params(0))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == count


def test_parameter_counts_of_layers():
    body = jax.eval_shape(lambda: IPT(golden.SCALES).init_params(0))["body"]
    assert sum(x.size for x in jax.tree.leaves(body["encoder"])) == 12 * 3_986_496
    assert sum(x.size for x in jax.tree.leaves(body["decoder"])) == 12 * 5_314_752


def test_deblurring_geometry_has_the_papers_tokens():
    model = build(preset("ipt_deblur"), [TASKS["denoise30"]])
    assert (model.tokens, model.width) == (32 * 32, 576)
    shapes = jax.eval_shape(lambda: model.init_params(0))
    image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    outputs, tokens = jax.eval_shape(
        lambda p, x: model.apply({"params": p}, {"denoise30": x}), shapes, image
    )
    assert outputs["denoise30"].shape == (1, 256, 256, 3)
    assert tokens["denoise30"].shape == (1, 1024, 576)


def test_state_dict_round_trip_is_exact():
    model = golden.tiny(out_bias=True)
    params = golden.params(model, 5)
    back = params_from_torch(params_to_torch(params, model), model)
    jax.tree.map(np.testing.assert_array_equal, back, params)


@pytest.mark.slow
def test_torch_start_has_pytorchs_bounds_and_equal_layers():
    params = build(preset("ipt"), [TASKS["sr2"]]).init_params(0)
    encoder, decoder, own = params["body"]["encoder"], params["body"]["decoder"], params["task_sr2"]
    for stack in (encoder, decoder):
        jax.tree.map(
            lambda x: np.testing.assert_array_equal(x, np.broadcast_to(x[:1], x.shape)), stack
        )
    bounds = {
        576**-0.5: [
            encoder["self_attention"]["qkv"],
            encoder["self_attention"]["out"]["kernel"],
            encoder["feed_forward"]["in"]["kernel"],
            encoder["feed_forward"]["in"]["bias"],
        ],
        2304**-0.5: [encoder["feed_forward"]["out"]["kernel"]],
        (6 / (4 * 576)) ** 0.5: [
            decoder["self_attention"]["qkv"],
            decoder["cross_attention"]["qkv"],
        ],
        27**-0.5: [own["head"]["conv"]["kernel"]],
        (25 * 64) ** -0.5: [own["head"]["block1"]["conv1"]["kernel"]],
        (9 * 64) ** -0.5: [own["tail"]["up0"]["kernel"], own["tail"]["conv"]["kernel"]],
    }
    for bound, leaves in bounds.items():
        for leaf in leaves:
            assert 0.95 * bound < float(jnp.abs(leaf).max()) <= bound * (1 + 1e-6)
            assert float(leaf.std()) == pytest.approx(bound / 3**0.5, rel=0.1)
    for embedding in (params["body"]["position"], own["embedding"]):
        assert float(embedding.std()) == pytest.approx(1, rel=0.02)


@pytest.fixture(scope="module")
def photograph_tiles() -> np.ndarray:
    """Returns tiles of real photographs, uint8 `[32, 48, 48, 3]`."""
    pytest.importorskip("skimage", reason="needs scikit-image's photographs")
    photographs = embedded("all")
    rng = np.random.default_rng(0)
    tiles = []
    for i in range(len(photographs)):
        picture = photographs[i]
        for _ in range(8):
            y, x = rng.integers(picture.shape[0] - 48), rng.integers(picture.shape[1] - 48)
            tiles.append(picture[y : y + 48, x : x + 48])
    return np.stack(tiles)


@pytest.mark.parametrize("size", ["tiny", "ipt_small"])
def test_identity_start_returns_its_input(photograph_tiles, size):
    model = build(preset(size), make_tasks(PAPER_TASKS))
    tiles = photograph_tiles
    outputs, _ = jax.jit(
        lambda p, x: model.apply({"params": p}, {name: x for name in PAPER_TASKS})
    )(model.init_params(1), tiles)
    for name, task in ((name, TASKS[name]) for name in PAPER_TASKS):
        s = task.scale
        expected = tiles.astype(np.float32)
        if s > 1:
            expected = np.stack(
                [cv2.resize(t, None, fx=s, fy=s, interpolation=cv2.INTER_LINEAR) for t in expected]
            )
        inner = slice(4 * s, -4 * s) if s > 1 else slice(None)
        error = np.abs(np.asarray(outputs[name]) - expected)[:, inner, inner]
        assert error.mean() < 2, name


@pytest.mark.parametrize("start", ["identity", "torch"])
def test_every_parameter_gets_a_gradient_from_the_start(photograph_tiles, start):
    model = build({**preset("tiny"), "start": start}, make_tasks(PAPER_TASKS))
    lq = {name: photograph_tiles[:2] for name in PAPER_TASKS}
    rng = np.random.default_rng(1)
    sides = {name: 48 * TASKS[name].scale for name in PAPER_TASKS}
    hq = {
        name: rng.uniform(0, 255, (2, side, side, 3)).astype(np.float32)
        for name, side in sides.items()
    }

    def loss(params):
        outputs, _ = model.apply({"params": params}, lq)
        return sum(jnp.mean(jnp.abs(outputs[name] - hq[name])) for name in PAPER_TASKS)

    grads = jax.jit(jax.grad(loss))(model.init_params(0))
    silent = [
        jax.tree_util.keystr(path)
        for path, g in jax.tree_util.tree_leaves_with_path(grads)
        if not np.any(g)
    ]
    assert not silent
    # This also holds for each layer of a stack.
    for stack in ("encoder", "decoder"):
        for path, g in jax.tree_util.tree_leaves_with_path(grads["body"][stack]):
            assert all(np.any(layer) for layer in np.asarray(g)), path


def test_input_scale_can_be_folded_into_the_ends(photograph_tiles):
    """A model with `input_scale` is the same function as one with scale 1 and two rescaled
    convolutions.
    """
    tasks = [TASKS["sr2"], TASKS["denoise30"]]
    scaled, plain = (
        build(preset("tiny"), tasks),
        build({**preset("tiny"), "input_scale": 1.0}, tasks),
    )
    params = scaled.init_params(0)
    folded = jax.tree.map(lambda x: x, params)
    for task in tasks:
        ends = folded[f"task_{task.name}"]
        ends["head"]["conv"]["kernel"] = ends["head"]["conv"]["kernel"] / 127.5
        ends["tail"]["conv"] = {k: v * 127.5 for k, v in ends["tail"]["conv"].items()}
    lq = {task.name: photograph_tiles[:4] for task in tasks}
    a, _ = scaled.apply({"params": params}, lq)
    b, _ = plain.apply({"params": folded}, lq)
    for name in lq:
        np.testing.assert_allclose(b[name], a[name], rtol=0, atol=255 * 1e-5)


@pytest.mark.parametrize("remat", ["dots", "layer"])
def test_rematerialisation_changes_no_gradient(photograph_tiles, remat):
    lq = photograph_tiles[:2]

    def gradient(setting):
        model = build({**preset("tiny"), "remat": setting}, [TASKS["sr2"]])
        loss = lambda p: jnp.mean(model.apply({"params": p}, {"sr2": lq})[0]["sr2"] ** 2)  # noqa: E731
        return jax.jit(jax.grad(loss))(model.init_params(0))

    for a, b in zip(
        jax.tree.leaves(gradient(remat)), jax.tree.leaves(gradient("none")), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def test_bfloat16_stays_close_and_keeps_norm_softmax_and_output_in_float32(photograph_tiles):
    tasks = [TASKS["sr2"], TASKS["denoise30"]]
    low, full = build({**preset("tiny"), "dtype": "bfloat16"}, tasks), build(preset("tiny"), tasks)
    params = full.init_params(0)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))
    lq = {task.name: photograph_tiles[:4] for task in tasks}
    a, tokens = low.apply({"params": params}, lq)
    b, _ = full.apply({"params": params}, lq)
    assert tokens["sr2"].dtype == jnp.bfloat16
    for name in lq:
        assert a[name].dtype == jnp.float32
        # In grey levels. bfloat16 has 8 significant bits.
        assert float(jnp.abs(a[name] - b[name]).mean()) < 1
    text = str(jax.make_jaxpr(lambda p, x: low.apply({"params": p}, x))(params, lq))
    exponentials = [line for line in text.splitlines() if " exp " in line or " rsqrt " in line]
    assert exponentials and all("f32[" in line and "bf16[" not in line for line in exponentials)


@pytest.mark.parametrize("eps", [1e-5, 1e-7])
def test_layer_norm_has_the_models_eps(eps):
    x = 1e-3 * np.random.default_rng(0).normal(size=(5, 12))
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    one = {"params": {"norm": {"scale": np.ones(12, np.float32), "bias": np.zeros(12, np.float32)}}}
    np.testing.assert_allclose(
        LayerNorm(jnp.float32, eps).apply(one, x.astype(np.float32)), expected, rtol=1e-5, atol=1e-6
    )
    model = build({**preset("tiny"), "norm_eps": eps}, [TASKS["sr2"]])
    text = str(
        jax.make_jaxpr(lambda p, t: model.apply({"params": p}, {"sr2": t}))(
            jax.eval_shape(lambda: model.init_params(0)), jnp.zeros((1, 48, 48, 3))
        )
    )
    other = 1e-5 if eps == 1e-7 else 1e-7
    assert repr(float(np.float32(eps))) in text and repr(float(np.float32(other))) not in text


def test_patches_are_in_channel_row_column_order():
    x = np.arange(2 * 6 * 9 * 4, dtype=np.float32).reshape(2, 6, 9, 4)
    tokens = np.asarray(tokens_of(jnp.asarray(x), 3))
    assert tokens.shape == (2, 6, 36)
    np.testing.assert_array_equal(tokens[1, 4], x[1, 3:6, 3:6].transpose(2, 0, 1).reshape(-1))
    np.testing.assert_array_equal(features_of(jnp.asarray(tokens), 3, 6, 9), x)


def test_pixel_shuffle_is_pytorchs():
    x = np.random.default_rng(0).normal(size=(1, 2, 3, 8)).astype(np.float32)
    out = np.asarray(pixel_shuffle(jnp.asarray(x), 2))
    assert out.shape == (1, 4, 6, 2)
    for c in range(2):
        for i in range(2):
            for j in range(2):
                np.testing.assert_array_equal(out[0, i::2, j::2, c], x[0, :, :, c * 4 + i * 2 + j])


def test_wrong_batches_are_refused_by_name():
    model = golden.tiny()
    params = jax.eval_shape(lambda: model.init_params(0))
    with pytest.raises(ValueError, match=r"no task.*denoise70.*it has"):
        jax.eval_shape(
            lambda p: model.apply({"params": p}, {"denoise70": jnp.zeros((1, 48, 48, 3))}), params
        )
    with pytest.raises(ValueError, match=r"\[B, 48, 48, 3\]"):
        jax.eval_shape(
            lambda p: model.apply({"params": p}, {"sr2": jnp.zeros((1, 50, 48, 3))}), params
        )
    with pytest.raises(ValueError, match="unknown model preset"):
        preset("huge")


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-6), (jnp.bfloat16, 1e-2)])
def test_attention_weights_are_softmax_and_so_is_their_gradient(dtype, tolerance):
    """In bfloat16, the backward pass uses the rounded weights, like the forward pass."""
    rng = np.random.default_rng(0)
    logits, gradient = (
        jnp.asarray(rng.normal(size=(2, 3, 5, 7)) * 3, jnp.float32) for _ in range(2)
    )

    def of(function):
        value, back = jax.vjp(function, logits)
        return value.astype(jnp.float32), back(gradient.astype(value.dtype))[0]

    got = of(lambda x: attention_weights(x, dtype))
    expected = of(lambda x: jax.nn.softmax(x, axis=-1).astype(dtype))
    for a, b in zip(got, expected):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * float(jnp.abs(b).max()))
