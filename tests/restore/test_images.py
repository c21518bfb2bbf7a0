"""Cutting, batching and stitching of tiles; published protocols against the authors' outputs."""

from __future__ import annotations

import functools

import golden
import numpy as np
import places
import pytest
import runs
import small
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import ipt_jax
from ipt_jax.distributed import devices
from ipt_jax.restore.ensemble import EIGHT, transformed, undone
from ipt_jax.restore.images import count_tiles, restore_pictures, to_uint8
from ipt_jax.restore.network import CompiledNetwork
from ipt_jax.restore.restorer import Restorer
from ipt_jax.restore.tiling import PROTOCOLS, blend_weights, make_stitcher, offsets

CHOP = places.GOLDEN / "golden_chop.npz"


def nearest_neighbour(scale: int):
    """Returns a network that commutes with cutting: a pixel becomes scale x scale pixels."""
    return lambda tiles: tiles.repeat(scale, 1).repeat(scale, 2)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


@given(size=st.integers(1, 400), tile=st.integers(4, 64), share=st.floats(0, 0.95))
def test_offsets_cover_with_at_least_the_overlap_and_no_more_tiles_than_needed(size, tile, share):
    overlap = int(share * tile)
    starts = offsets(size, tile, overlap)
    assert starts[0] == 0
    assert starts[-1] == max(0, size - tile)
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (tile - steps >= overlap).all()
    if len(starts) > 1:
        assert (len(starts) - 2) * (tile - overlap) + tile < size


@given(size=st.integers(48, 400), overlap=st.integers(0, 40))
def test_blend_weights_leave_no_pixel_out_and_are_smooth(size, overlap):
    starts = offsets(size, 48, overlap)
    weights = blend_weights(starts, 48)
    total = np.zeros(size)
    for start, weight in zip(starts, weights, strict=True):
        assert (weight >= 0).all()
        assert np.abs(np.diff(weight)).max() < np.pi / 2 / max(overlap, 1) + 1e-9
        total[start : start + 48] += weight
    assert total.min() > 0
    # Where no pixel is under three tiles, the two ramps are sin^2 and cos^2.
    if len(starts) == 1 or np.diff(starts).min() >= 24:
        np.testing.assert_allclose(total, 1, atol=1e-9)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize(
    "size", [(48, 48), (101, 75), (60, 96), (30, 20), (1, 7), (49, 84), (120, 48)]
)
def test_a_network_that_commutes_with_cutting_gives_the_picture(protocol, scale, size):
    image = picture(*size)
    for ensemble in (False, True) if scale == 2 else (False,):
        (out,) = restore_pictures(
            nearest_neighbour(scale), [image], scale=scale, protocol=protocol, ensemble=ensemble
        )
        assert out.dtype == np.float32
        np.testing.assert_allclose(out, image.repeat(scale, 0).repeat(scale, 1), rtol=0, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(48, 170),
    width=st.integers(48, 170),
    protocol=st.sampled_from(PROTOCOLS),
    scale=st.integers(1, 3),
)
def test_every_protocol_covers_every_size(height, width, protocol, scale):
    stitcher = make_stitcher(protocol, height, width, tile=48, scale=scale)
    assert len(set(stitcher.corners)) == len(stitcher.corners)
    for k, (y, x) in enumerate(stitcher.corners):
        assert 0 <= y <= height - 48 and 0 <= x <= width - 48
        stitcher.add(k, np.full((48 * scale, 48 * scale, 3), 7, np.float32))
    whole = stitcher.stitched()
    assert whole.shape == (height * scale, width * scale, 3)
    np.testing.assert_allclose(whole, 7, rtol=1e-6)


def test_tiles_of_several_images_share_calls_and_the_order_is_kept():
    images = [
        picture(h, w, i)
        for i, (h, w) in enumerate([(50, 100), (20, 20), (48, 48), (97, 60), (130, 49)])
    ]
    calls = []

    def apply(tiles):
        calls.append(tiles.shape)
        return tiles

    outs = list(restore_pictures(apply, iter(images), scale=1, batch=7))
    tiles = sum(count_tiles(*image.shape[:2], tile=48) for image in images)
    assert calls == [(7, 48, 48, 3)] * -(-tiles // 7)
    for image, out in zip(images, outs, strict=True):
        np.testing.assert_allclose(out, image, atol=1e-4)


def test_images_are_drawn_only_when_they_are_needed():
    given_out = 0

    def images():
        nonlocal given_out
        for i in range(20):
            given_out += 1
            yield picture(48, 48, i)

    outs = restore_pictures(lambda tiles: tiles, images(), scale=1, batch=4)
    next(outs)
    # The first call is read while the second call runs.
    assert given_out <= 8


def test_no_seams_where_the_network_is_wrong_at_its_borders():
    """Blending turns a jump between neighbouring tiles into a ramp."""
    level = iter(range(0, 1000, 40))

    # Each tile has another constant error.
    def apply(tiles):
        return np.stack([np.full((48, 48, 3), next(level), np.float32) for _ in tiles])

    (out,) = restore_pictures(apply, [picture(48, 84)], scale=1, batch=2)
    assert out[0, 0, 0] == 0 and out[0, -1, 0] == 40
    assert np.abs(np.diff(out[..., 0], axis=1)).max() < 40 * np.pi / 2 / 12 + 0.01


def test_eight_transforms_are_different_and_undone_exactly():
    image = picture(5, 7)
    views = {
        transformed(image, how).tobytes() + bytes(transformed(image, how).shape) for how in EIGHT
    }
    assert len(views) == 8
    for how in EIGHT:
        np.testing.assert_array_equal(undone(transformed(image, how), how), image)


def test_the_ensemble_is_the_mean_of_what_the_network_makes_of_each_view():
    slope = np.linspace(-10, 10, 48, dtype=np.float32)[None, :, None, None] * np.ones(
        (1, 48, 48, 3), np.float32
    )
    image = np.full((48, 48, 3), 100, np.uint8)
    (plain,) = restore_pictures(lambda tiles: tiles + slope, [image], scale=1)
    (mean,) = restore_pictures(lambda tiles: tiles + slope, [image], scale=1, ensemble=True)
    assert np.abs(plain - 100).max() == pytest.approx(10, abs=1e-4)
    # The slopes of opposite flips cancel.
    np.testing.assert_allclose(mean, 100, atol=1e-4)


@pytest.mark.parametrize(
    "size, tiles",
    [
        ((48, 48), (1, 1, 1, 1)),
        ((481, 321), (126, 117, 912, 126)),
        ((321, 481), (126, 117, 912, 126)),
        ((10, 90), (3, 3, 5, 3)),
    ],
)
def test_tile_counts(size, tiles):
    counts = tuple(
        count_tiles(*size, tile=48, protocol=p) for p in ("blend", "paper", "official", "mindspore")
    )
    assert counts == tiles
    assert count_tiles(*size, tile=48, ensemble=True) == 8 * tiles[0]


def test_rounding_is_half_up_and_clipped():
    values = np.array([-3, 0.49, 0.5, 1.5, 2.5, 254.5, 300], np.float32)
    np.testing.assert_array_equal(to_uint8(values), [0, 0, 1, 2, 3, 255, 255])


@pytest.mark.parametrize("shape", [(48, 48), (48, 48, 4), (0, 48, 3)])
def test_other_arrays_are_refused(shape):
    with pytest.raises(ValueError, match=r"\[H, W, 3\]"):
        list(restore_pictures(nearest_neighbour(1), [np.zeros(shape, np.uint8)], scale=1))


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="overlap=48"):
        list(restore_pictures(nearest_neighbour(1), [picture(48, 48)], scale=1, overlap=48))
    with pytest.raises(ValueError, match=r"unknown protocol 'mosaic'.*blend"):
        list(restore_pictures(nearest_neighbour(1), [picture(48, 48)], scale=1, protocol="mosaic"))


@functools.cache
def golden_tiles() -> tuple[CompiledNetwork, dict]:
    model = golden.tiny()
    return CompiledNetwork(model, devices.make_mesh()), golden.params(model, 0)


@pytest.mark.parametrize(
    "name, ensemble",
    [
        ("chop_101x75/sr2", False),
        ("chop_101x75/denoise30", False),
        ("chop_60x96/derain", False),
        ("ensemble_48x60/sr2", True),
    ],
)
def test_official_protocol_is_the_authors(name, ensemble):
    apply, params = golden_tiles()
    stored = np.load(CHOP)
    folder, task = name.split("/")
    scale = dict(golden.SCALES)[task]
    (out,) = restore_pictures(
        apply.bind(params, task),
        [stored[f"{folder}/image"]],
        scale=scale,
        protocol="official",
        ensemble=ensemble,
        batch=24,
    )
    assert golden.difference(out, stored, name) < 2e-6


def by_definition(image: np.ndarray, network, stride: int, margin: int) -> np.ndarray:
    """Returns the result of the published procedure, step by step, for scale 1 and tile 48."""
    h, w = image.shape[:2]
    hc, wc = (h - 48) % stride, (w - 48) % stride
    big_h, big_w, q = h - hc, w - wc, margin

    def tile(i, j):
        return network(image[None, i : i + 48, j : j + 48].astype(np.float32))[0].astype(np.float64)

    def averaged(shape, placed):
        total, count = np.zeros(shape), np.zeros(shape)
        for i, j, part in placed:
            total[i : i + part.shape[0], j : j + part.shape[1]] += part
            count[i : i + part.shape[0], j : j + part.shape[1]] += 1
        return total / np.maximum(count, 1)

    rows, columns = range(0, big_h - 47, stride), range(0, big_w - 47, stride)

    def row(i):
        strip = averaged((48, big_w, 3), [(0, j + q, tile(i, j)[:, q : 48 - q]) for j in columns])
        strip[:, :q], strip[:, big_w - q :] = tile(i, 0)[:, :q], tile(i, columns[-1])[:, 48 - q :]
        return strip

    def col(j):
        strip = averaged((big_h, 48, 3), [(i + q, 0, tile(i, j)[q : 48 - q]) for i in rows])
        strip[:q], strip[big_h - q :] = tile(0, j)[:q], tile(rows[-1], j)[48 - q :]
        return strip

    centre = averaged(
        (big_h, big_w, 3),
        [(i + q, j + q, tile(i, j)[q : 48 - q, q : 48 - q]) for i in rows for j in columns],
    )
    main = np.zeros((big_h, big_w, 3))
    main[:48], main[:, :48] = row(0), col(0)
    main[q : big_h - q, q : big_w - q] = centre[q : big_h - q, q : big_w - q]

    def joined(a, b, rest, axis):
        v = (48 - rest) / 2
        return np.concatenate(
            [
                a.take(range(a.shape[axis] - int(np.floor(v))), axis),
                b.take(range(int(np.ceil(v)), 48), axis),
            ],
            axis,
        )

    left = joined(main, row(h - 48), hc, 0)
    right = joined(col(w - 48), tile(h - 48, w - 48), hc, 0)
    return joined(left, right, wc, 1)


@pytest.mark.parametrize(
    "protocol, stride, margin", [("official", 12, 12), ("mindspore", 36, 6), ("paper", 38, 5)]
)
@pytest.mark.parametrize("size", [(101, 75), (84, 124), (133, 171)])
def test_published_protocols_are_what_is_described(protocol, stride, margin, size):
    position = np.random.default_rng(1).normal(0, 9, (1, 48, 48, 3)).astype(np.float32)

    # The output depends on the position within the tile, which shows the tile of each pixel.
    def network(tiles):
        return tiles * (1 + position / 50) + position

    image = picture(*size)
    (out,) = restore_pictures(network, [image], scale=1, protocol=protocol, batch=5)
    np.testing.assert_allclose(
        out, by_definition(image, network, stride, margin), rtol=0, atol=1e-3
    )


def test_one_program_a_task_whatever_the_pictures():
    plain = small.config(tasks=("sr2", "denoise50"))
    model = small.model(plain)
    apply, params = CompiledNetwork(model, devices.make_mesh()), runs.random_params(model, 0)
    for sizes in ([(16, 16)], [(60, 50), (9, 7)]):
        images = [picture(*size) for size in sizes]
        for out, image in zip(
            restore_pictures(
                apply.bind(params, "sr2"), images, scale=2, tile=16, overlap=4, batch=8
            ),
            images,
        ):
            assert out.shape == (2 * image.shape[0], 2 * image.shape[1], 3)
    assert apply.programs() == 1
    list(
        restore_pictures(
            apply.bind(params, "denoise50"), images, scale=1, tile=16, overlap=4, batch=8
        )
    )
    assert apply.programs() == 2


def test_a_pillow_animation_is_restored_at_its_present_frame_and_said(weights, tmp_path, caplog):
    model = ipt_jax.load(weights)
    frames = [Image.new("RGB", (24, 20), (60 * i, 90, 120)) for i in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "a.png") as image, caplog.at_level("WARNING"):
        image.seek(2)
        restored = model.restore(image, "sr2")
    expected = model.restore(np.asarray(frames[2]), "sr2")
    np.testing.assert_array_equal(np.asarray(restored), expected)
    assert "has 3 frames, and only the present one is restored" in caplog.text


class Doubles(Restorer):
    """A network whose outputs leave 0..255: twice the input less 100."""

    def bind(self, task):
        return lambda tiles: 2 * np.asarray(tiles, np.float32) - 100


@pytest.mark.parametrize("in_strips", [False, True])
def test_values_are_clipped_between_two_tasks_and_only_there(weights, in_strips):
    loaded = ipt_jax.load(weights)
    model = Doubles(loaded.model, loaded.params, loaded.tasks, {})
    image = np.repeat(np.float32([20, 90, 130, 240])[:, None, None], 5, axis=0)
    image = np.broadcast_to(image, (20, 24, 3)).copy()
    tasks = "denoise50,denoise50"
    if in_strips:
        read = lambda first, last: image[first:last]  # noqa: E731
        out = np.concatenate(list(model.restore_strips(read, 20, 24, tasks, overlap=4)))
    else:
        out = model.restore(image, tasks, overlap=4)
    # After the first task: -60, 80, 160 and 380, of which 0, 80, 160 and 255 go on.
    expected = np.repeat(np.float32([-100, 60, 220, 410]), 5)[:, None, None]
    np.testing.assert_allclose(out, np.broadcast_to(expected, out.shape), atol=1e-3)


def test_a_chain_of_tasks_runs_in_the_order_of_its_names(weights):
    model = ipt_jax.load(weights)
    image = np.random.default_rng(3).integers(0, 256, (18, 20, 3)).astype(np.float32)
    first = np.clip(model.restore(image, "denoise50", overlap=4), 0, 255)
    expected = model.restore(first, "sr2", overlap=4)
    for chain in ("denoise50,sr2", ["denoise50", "sr2"]):
        np.testing.assert_array_equal(model.restore(image, chain, overlap=4), expected)
    other = model.restore(image, "sr2,denoise50", overlap=4)
    assert not np.allclose(other, expected, rtol=0, atol=1)
