"""Restoring strip by strip gives the same numbers as restoring complete images."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipt_jax.images import channels
from ipt_jax.images.resize import bicubic_up
from ipt_jax.restore.images import count_tiles, restore_pictures
from ipt_jax.restore.strips import Rows, restore_strips


@functools.cache
def network(scale: int):
    """Returns a network whose output depends on the position within the tile."""
    shade = np.random.default_rng(scale).normal(size=(16 * scale, 16 * scale, 3)).astype(np.float32)
    return lambda tiles: tiles.repeat(scale, 1).repeat(scale, 2) + shade


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 120),
    width=st.integers(1, 90),
    scale=st.integers(1, 3),
    overlap=st.integers(0, 15),
    batch=st.integers(1, 9),
)
def test_strips_are_the_whole_picture_bit_for_bit(height, width, scale, overlap, batch):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    cut = dict(scale=scale, tile=16, overlap=overlap, batch=batch)
    (whole,) = restore_pictures(network(scale), [image], **cut)
    done = []
    strips = list(
        restore_strips(
            network(scale), lambda a, b: image[a:b], height, width, **cut, done=done.append
        )
    )
    np.testing.assert_array_equal(np.concatenate(strips), whole)
    assert max(len(strip) for strip in strips) <= 16 * scale
    assert sum(done) == count_tiles(height, width, tile=16, overlap=overlap)


def test_rows_are_read_from_top_to_bottom_and_no_more_than_a_row_of_tiles():
    asked = []

    def read(first, last):
        asked.append((first, last))
        return np.zeros((last - first, 40, 3), np.uint8)

    for _ in restore_strips(network(1), read, 200, 40, scale=1, tile=16, overlap=4, batch=4):
        pass
    assert (
        asked == sorted(asked)
        and all(last - first == 16 for first, last in asked)
        and asked[-1][1] == 200
    )


def test_ensemble_is_the_mean_over_the_turned_tiles():
    image = np.random.default_rng(1).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    cut = dict(scale=2, tile=16, overlap=4, batch=3, ensemble=True)
    (whole,) = restore_pictures(network(2), [image], **cut)
    (strip,) = restore_strips(network(2), lambda a, b: image[a:b], 16, 16, **cut)
    np.testing.assert_allclose(strip, whole, rtol=0, atol=1e-3)


def test_rows_of_strips():
    whole = np.arange(60).reshape(20, 1, 3)
    rows = Rows(iter([whole[:3], whole[3:4], whole[4:15], whole[15:]]))
    for first, last in ((0, 4), (0, 5), (3, 9), (9, 20), (19, 20)):
        np.testing.assert_array_equal(rows(first, last), whole[first:last])


@pytest.mark.parametrize("scale", [2, 3, 4, 6])
def test_alpha_of_16_bits_is_enlarged_as_bytes_are(scale):
    # With these values nothing is clipped.
    alpha = np.random.default_rng(2).integers(64, 192, (13, 9)).astype(np.uint8)
    big = channels.enlarged(alpha.astype(np.uint16) * 257, scale) / 257
    # `bicubic_up` also rounds to bytes between the two axes.
    assert np.abs(big - bicubic_up(alpha, scale)).max() < 1.2
    np.testing.assert_array_equal(
        np.concatenate(
            [
                channels.enlarged_rows(alpha, scale, r, min(r + 5, 13 * scale))
                for r in range(0, 13 * scale, 5)
            ]
        ),
        bicubic_up(alpha, scale),
    )
