"""JPEG: Pillow's bits up to the version's arithmetic, and its random quality."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from textures import picture

from ipt_jax.degradations.jpeg import Jpeg


@pytest.mark.parametrize("quality", [1, 10, 50, 75, 95, 100])
def test_jpeg_is_pillows(quality):
    """Both use libjpeg with the same tables; some pixels may differ by one between its versions."""
    image = picture(quality, 61, 83)
    ours = Jpeg(quality)(image, np.random.default_rng(0))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=2)
    theirs = np.asarray(Image.open(buffer).convert("RGB"))
    assert ours.dtype == np.uint8 and ours.shape == image.shape
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert np.mean(ours != theirs) < 0.01
    if quality <= 50:
        assert np.abs(ours.astype(int) - image).mean() > 1


def test_jpeg_draws_its_quality():
    image = picture(3, 48, 48)
    by_quality = {Jpeg(q)(image, np.random.default_rng(0)).tobytes(): q for q in range(10, 41)}
    drawn = [
        by_quality[Jpeg((10, 40))(image, np.random.default_rng(seed)).tobytes()]
        for seed in range(200)
    ]
    assert min(drawn) <= 12 and max(drawn) >= 38 and 22 < np.mean(drawn) < 28
