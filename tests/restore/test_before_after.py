"""The sheet of images before and after restoration: the right pixels, at the right places."""

from __future__ import annotations

import numpy as np
import pytest

from ipt_jax.images.read import read_image
from ipt_jax.images.resize import bicubic_up
from ipt_jax.restore.before_after import GAP, LINE, SIDE, choose_crop, write_sheet


def detailed_at(top: int, left: int, side: int, seed: int) -> np.ndarray:
    """Returns a slope of grey, uint8 `[400, 330, 3]`, with noise in one square."""
    image = np.empty((400, 330, 3), np.uint8)
    image[:] = (np.arange(400)[:, None, None] + np.arange(330)[None, :, None]) // 4
    # So weak that bicubic enlargement clips nothing.
    noise = np.random.default_rng(seed).integers(80, 176, (side, side, 3))
    image[top : top + side, left : left + side] = noise
    return image


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_rows_show_the_most_detailed_crop_of_each_image_before_and_after(tmp_path, scale):
    places = [(250, 30), (20, 190)]
    side = SIDE // max(scale, 2)
    pixels = [detailed_at(*place, side, seed) for seed, place in enumerate(places)]
    crops, results = [], []
    for image in pixels:
        crop = choose_crop("name", image, scale)
        # Another image than the input enlarged, so that the columns cannot be mistaken.
        result = 255 - image.repeat(scale, 0).repeat(scale, 1)
        for row in range(0, len(result), 7):
            crop.add_strip(row, result[row : row + 7])
        crops.append(crop)
        results.append(result)
    write_sheet(crops, "task", tmp_path / "sheet.png")
    sheet = read_image(tmp_path / "sheet.png").pixels
    assert sheet.shape == (LINE + GAP + 2 * (SIDE + LINE + GAP), 3 * SIDE + 4 * GAP, 3)
    for i, (place, image, result, crop) in enumerate(zip(places, pixels, results, crops)):
        y, x = crop.top, crop.left
        # The blur against noise moves the window with most detail by some pixels.
        assert abs(y - place[0]) <= 4 and abs(x - place[1]) <= 4
        top = LINE + GAP + i * (SIDE + LINE + GAP)
        shown = [
            sheet[top : top + SIDE, GAP + column * (SIDE + GAP) :][:, :SIDE].astype(int)
            for column in range(3)
        ]
        after = result[y * scale : (y + side) * scale, x * scale : (x + side) * scale]
        before = image[y : y + side, x : x + side]
        if scale == 1:
            before, after = before.repeat(2, 0).repeat(2, 1), after.repeat(2, 0).repeat(2, 1)
            np.testing.assert_array_equal(shown[1], before)
        else:
            # Pillow has the kernel of `bicubic_up`, but another border, and rounds the width first.
            difference = np.abs(shown[1] - bicubic_up(before, scale))[8:-8, 8:-8]
            assert difference.max() <= 2
        np.testing.assert_array_equal(shown[2], after)
        # The frame of the crop on the thumbnail, whose sides are 240 and 198 pixels.
        red = np.argwhere((shown[0] == (255, 40, 40)).all(-1))
        ratio = SIDE / 400
        edges = [y * ratio, x * ratio, (y + side) * ratio - 1, (x + side) * ratio - 1]
        np.testing.assert_allclose([*red.min(0), *red.max(0)], edges, atol=1)
