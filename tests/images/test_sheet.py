"""Sheets of images: positions are exact, and what does not fit is cut off."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ipt_jax.images.sheet import Page, contact_sheet, encode_image, save_png


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth noise over the full range."""
    raw = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return cv2.normalize(cv2.GaussianBlur(raw, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


def test_a_contact_sheet_shows_the_middle_of_each_image_at_its_own_pixels(tmp_path):
    hq, before, after = (photograph(100, 60, seed) for seed in range(3))
    image = contact_sheet([("sr2", hq, before, after), ("derain", hq, before, after)], side=50)
    assert image.dtype == np.uint8 and image.shape == (2 * 72, 166, 3)
    for row in (22, 72 + 22):
        for column, expected in ((0, hq), (58, before), (116, after)):
            np.testing.assert_array_equal(
                image[row : row + 50, column : column + 50], expected[25:75, 5:55]
            )
    for row in (0, 72):
        for column in (0, 58, 116):
            assert (image[row : row + 22, column : column + 50] < 128).any(), "no label"
    save_png(tmp_path / "sheet.png", image)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "sheet.png"))[..., ::-1], image)


def test_small_images_fit_on_a_contact_sheet():
    small = photograph(12, 14)
    image = contact_sheet([("sr2", small, small, small)], side=50)
    np.testing.assert_array_equal(image[22:34, :14], small)
    assert (image[34:, :14] == 255).all()


def test_a_page_cuts_off_what_lies_beyond_its_edges():
    page, image = Page(20, 30), photograph(16, 16)
    page.place_image(image, 10, 20)
    expected = np.full((20, 30, 3), 255, np.uint8)
    expected[10:, 20:] = image[:10, :10]
    np.testing.assert_array_equal(page.pixels(), expected)


def test_labels_may_have_any_letters():
    page = Page(20, 60)
    page.write_label("Übergröße", 2, 2)
    assert (page.pixels() < 128).any()


def test_an_unknown_suffix_is_refused():
    assert encode_image(photograph(8, 8), ".jpg").startswith(b"\xff\xd8")
    for suffix in (".xyz", "png", ""):
        with pytest.raises(ValueError, match=r"use \.png"):
            encode_image(photograph(8, 8), suffix)
