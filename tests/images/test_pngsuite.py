"""PngSuite, the conformance suite of PNG (van Schaik, 2011): both decoders read it right.

The files are not part of this package: $IPT_TEST_DATA names the folder with suites/pngsuite.
"""

from __future__ import annotations

import os
import pathlib

import cv2
import numpy as np
import pytest

from ipt_jax.errors import DecodeError
from ipt_jax.images.decode import decode
from ipt_jax.images.read import read_image

FOLDER = pathlib.Path(os.environ.get("IPT_TEST_DATA", "nowhere"), "suites", "pngsuite")
FILES = sorted(FOLDER.glob("*.png")) if FOLDER.is_dir() else []
CORRUPT = [file for file in FILES if file.name.startswith("x")]
GOOD = [file for file in FILES if file not in CORRUPT and file.name != "PngSuite.png"]

pytestmark = pytest.mark.skipif(
    not FILES, reason="needs PngSuite: set IPT_TEST_DATA to the folder that holds suites/pngsuite"
)


@pytest.mark.parametrize("file", CORRUPT, ids=lambda file: file.stem)
def test_corrupt_files_are_refused(file):
    with pytest.raises(DecodeError):
        decode(file.read_bytes())
    with pytest.raises(DecodeError):
        read_image(file)


@pytest.mark.parametrize("file", GOOD, ids=lambda file: file.stem)
def test_both_decoders_read_what_libpng_reads(file):
    """Name: ......[type][bits]; types 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 with alpha."""
    data = file.read_bytes()
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if expected.ndim == 3:
        order = [2, 1, 0, 3][: expected.shape[2]]
        expected = expected[..., order]
    pixels = read_image(file).pixels
    colours = {1: pixels[..., :1].repeat(3, 2), 2: pixels[..., :1].repeat(3, 2)}.get(
        pixels.shape[2], pixels[..., :3]
    )
    if expected.ndim == 2:
        expected = expected[..., None].repeat(3, 2)
    assert colours.dtype == expected.dtype == (np.uint16 if file.stem[-2:] == "16" else np.uint8)
    assert np.array_equal(colours, expected[..., :3])
    if expected.shape[2] == 4 and pixels.shape[2] in (2, 4):
        assert np.array_equal(pixels[..., -1], expected[..., 3])
    eight = colours
    if colours.dtype == np.uint16:
        eight = np.floor(colours / 257 + 0.5).astype(np.uint8)
    assert np.array_equal(decode(data), eight)


def test_the_suite_is_complete():
    assert len(CORRUPT) == 14 and len(GOOD) >= 160
