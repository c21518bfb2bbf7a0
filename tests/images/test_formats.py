"""Image formats: the suffix and the content of a file name the same format."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ipt_jax.errors import DecodeError
from ipt_jax.images.decode import decode
from ipt_jax.images.formats import (
    AVIF,
    LOSSLESS_SUFFIXES,
    SUFFIX_FORMATS,
    SUFFIXES,
    TITLES,
    describe_left_out,
    format_of,
    sniff_format,
    unread_format,
)
from ipt_jax.images.metadata import ORIENTATION
from ipt_jax.images.read import PLUGINS, read_image
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
    written = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff")
    assert (*written, *([".avif"] if AVIF else [])) == SUFFIXES
    assert LOSSLESS_SUFFIXES == (".png", ".bmp", ".tif", ".tiff")


def test_every_format_that_is_written_is_read_under_the_same_suffix():
    assert set(FORMATS) == set(SUFFIX_FORMATS.values()) <= set(TITLES)
    assert all(SUFFIX_FORMATS[suffix] == kind for kind, suffix in FORMATS.items())


@pytest.mark.skipif(not AVIF, reason="this Pillow does not read AVIF")
@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_avif_is_read_upright(turn, tmp_path):
    image = np.zeros((16, 24, 3), np.uint8)
    image[:8, :12] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    stored = {3: image[::-1, ::-1], 6: np.rot90(image), 8: np.rot90(image, -1)}.get(turn, image)
    path = tmp_path / "a.avif"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, quality=100, exif=exif)
    for pixels in (decode(path.read_bytes()), read_image(path).pixels):
        assert pixels.shape == image.shape
        assert np.abs(pixels.astype(int) - image).max() < 12


def test_other_formats_are_counted_and_named_with_advice():
    assert describe_left_out([]) == ""
    assert describe_left_out(["x/notes.txt"]) == (
        "1 file of another format is left out: 1 .txt (x/notes.txt)"
    )
    text = describe_left_out(["a.heic", "b.HEIC", "c.CR2", "d"])
    assert text.startswith(
        "4 files of other formats are left out: 2 .heic (a.heic, b.HEIC), 1 without suffix (d), "
        "1 .cr2 (c.CR2); HEIC is not read: convert it"
    )
    assert "a raw photograph is not read: develop it" in text


def test_content_that_is_not_read_is_called_by_its_name():
    heic = b"\0\0\0\x18ftypheic\0\0\0\0"
    assert unread_format(heic[:12]).startswith("HEIC, which is not read: convert it")
    assert unread_format(b"%PDF-1.7....") == ""
    with pytest.raises(DecodeError, match="HEIC, which is not read"):
        decode(heic)
