"""Image formats: the suffix and the content of a file name the same format."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ipt_jax.images.formats import (
    LOSSLESS_SUFFIXES,
    SUFFIX_FORMATS,
    SUFFIXES,
    TITLES,
    format_of,
    sniff_format,
)
from ipt_jax.images.read import PLUGINS
from ipt_jax.images.write import FORMATS


@pytest.mark.parametrize("kind", TITLES)
def test_a_file_of_each_format_is_recognised_by_its_first_bytes(kind):
    stream = io.BytesIO()
    Image.fromarray(np.zeros((5, 7, 3), np.uint8)).save(stream, kind)
    assert sniff_format(stream.getvalue()[:12]) == kind
    assert kind in PLUGINS


@pytest.mark.parametrize(
    "start", [b"", b"\x89PNG", b"RIFF\0\0\0\0WAVE", b"II", b"%PDF-1.7", b"GIF"]
)
def test_other_content_has_no_format(start):
    assert sniff_format(start) is None


def test_suffixes_are_recognised_in_any_case():
    assert [format_of(Path(name)) for name in ("a.JPG", "b.jpeg", "c.Tif", "d.gif", "e")] == [
        "jpeg",
        "jpeg",
        "tiff",
        None,
        None,
    ]
    assert SUFFIXES == (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
    assert LOSSLESS_SUFFIXES == (".png", ".bmp", ".tif", ".tiff")


def test_every_format_that_is_written_is_read_under_the_same_suffix():
    assert set(FORMATS) == set(SUFFIX_FORMATS.values()) <= set(TITLES)
    assert all(SUFFIX_FORMATS[suffix] == kind for kind, suffix in FORMATS.items())
