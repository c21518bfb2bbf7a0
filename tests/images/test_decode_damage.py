"""Truncated, corrupt and oversized files are refused with a reason, and never crash the process."""

import io
import os
import resource
import socket
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import places
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ipt_jax.data.layouts import read_picture
from ipt_jax.errors import DataError, DecodeError
from ipt_jax.images.decode import check_jpeg, decode
from ipt_jax.images.read import measure, read_image

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")


def _image(height: int = 61, width: int = 84) -> np.ndarray:
    """Returns a smooth image with some texture."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    noise = np.random.default_rng(0).normal(0, 4, (height, width, 3))
    waves = np.stack(
        [120 + 90 * np.sin(x / 17), 110 + 80 * np.cos(y / 13), 90 + x + y / 3], axis=-1
    )
    return (waves + noise).clip(0, 255).round().astype(np.uint8)


def _encode(image: np.ndarray, kind: str, mode: str | None = None, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


IMAGE = _image()
VARIETY = {
    "jpeg": _encode(IMAGE, "JPEG", quality=85),
    "progressive": _encode(IMAGE, "JPEG", quality=85, progressive=True),
    "cmyk": _encode(IMAGE, "JPEG", "CMYK"),
    "png": _encode(IMAGE, "PNG"),
    "palette": _encode(IMAGE, "PNG", "P"),
    "png16": cv2.imencode(".png", IMAGE.astype(np.uint16) * 257)[1].tobytes(),
    "webp": _encode(IMAGE, "WEBP", quality=80),
    "webp lossless": _encode(IMAGE, "WEBP", lossless=True),
    "bmp": _encode(IMAGE, "BMP"),
    "tiff": _encode(IMAGE, "TIFF"),
    "tiff lzw": _encode(IMAGE, "TIFF", compression="tiff_lzw"),
}


def _check(image: np.ndarray) -> None:
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    assert image.flags.c_contiguous and image.size


def test_what_is_no_picture_is_refused_with_the_reason():
    cases = {
        b"": "0 bytes",
        b"hello, I am text": "not a JPEG, PNG, WebP, BMP or TIFF: 16 bytes",
        b"GIF89a" + b"\0" * 30: "not a JPEG",
        b"\xff\xd8": "truncated inside its header",
        b"\xff\xd8\xff\xd9": "JPEG",
        b"\x89PNG\r\n\x1a\n": "truncated",
        _encode(IMAGE[:, :, 0].astype(np.float32), "TIFF", "F"): "pixels of 32 bits",
        _encode(IMAGE[:, :, 0].astype(np.int32), "TIFF", "I"): "pixels of 32 bits",
    }
    for data, match in cases.items():
        with pytest.raises(DecodeError, match=match) as error:
            decode(data)
        assert "\n" not in str(error.value) and isinstance(error.value, DataError)


@pytest.mark.parametrize("kind", VARIETY)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_truncation_is_refused(kind, data):
    whole = VARIETY[kind]
    length = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(DecodeError):
        decode(whole[:length])


@pytest.mark.parametrize("kind", ["jpeg", "progressive"])
def test_an_embedded_thumbnail_does_not_hide_a_truncation(kind):
    thumbnail = _encode(_image(12, 16), "JPEG")
    exif = b"Exif\x00\x00" + thumbnail
    whole = VARIETY[kind]
    whole = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + whole[2:]
    np.testing.assert_array_equal(decode(whole), decode(VARIETY[kind]))
    for cut in (2, 3, 100, 400):
        with pytest.raises(DecodeError, match="truncated"):
            decode(whole[:-cut])


@pytest.mark.parametrize(
    "kind", ["jpeg", "progressive", "cmyk", "png", "png16", "webp", "webp lossless"]
)
def test_a_truncation_is_called_one(kind):
    for share in (0.5, 0.9):
        with pytest.raises(DecodeError, match=r"^the (JPEG|PNG|WebP) is truncated"):
            decode(VARIETY[kind][: int(len(VARIETY[kind]) * share)])


@pytest.mark.parametrize("kind", VARIETY)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_flipped_bits_never_do_more_than_raise_decode_error(kind, data):
    damaged = bytearray(VARIETY[kind])
    for position in data.draw(
        st.lists(st.integers(0, len(damaged) * 8 - 1), min_size=1, max_size=4, unique=True)
    ):
        damaged[position // 8] ^= 1 << position % 8
    try:
        image = decode(bytes(damaged), max_pixels=1_000_000)
    except DecodeError as error:
        assert str(error)
    else:
        _check(image)


@settings(max_examples=300, deadline=None)
@given(
    start=st.sampled_from(
        [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", b"RIFF\4\0\0\0WEBP"]
    ),
    rest=st.binary(max_size=300),
)
def test_random_bytes_never_do_more_than_raise_decode_error(start, rest):
    try:
        _check(decode(start + rest, max_pixels=1_000_000))
    except DecodeError as error:
        assert str(error)


def test_any_flipped_bit_of_png_pixels_is_noticed():
    whole = VARIETY["png"]
    start, end = whole.index(b"IDAT") + 4, whole.index(b"IEND") - 8
    for position in np.random.default_rng(2).integers(start * 8, end * 8, 100):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(DecodeError, match="wrong checksum of chunk IDAT"):
            decode(bytes(damaged))


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_bombs_are_refused_before_memory_is_taken():
    side = 60_000
    png = b"\x89PNG\r\n\x1a\n" + _png_chunk(
        b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    )
    png += _png_chunk(b"IDAT", zlib.compress(b"\0" * 99)) + _png_chunk(b"IEND", b"")
    jpeg = bytearray(VARIETY["jpeg"])
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    bmp = bytearray(VARIETY["bmp"])
    bmp[18:26] = struct.pack("<ii", side, side)
    for data in (png, bytes(jpeg), bytes(bmp)):
        with pytest.raises(
            DecodeError, match="60000x60000 pixels are more than the limit of 500,000,000"
        ):
            decode(data)
    for data in VARIETY.values():
        assert decode(data, max_pixels=61 * 84).shape == (61, 84, 3)
        with pytest.raises(DecodeError, match="84x61 pixels"):
            decode(data, max_pixels=61 * 84 - 1)


def test_a_picture_of_no_pixels_is_refused():
    jpeg = bytearray(VARIETY["jpeg"])
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 7] = b"\0\0"
    with pytest.raises(DecodeError, match="84x0 pixels"):
        decode(bytes(jpeg))


def test_truncated_pictures_leave_stderr_clean(tmp_path):
    for i, data in enumerate(VARIETY.values()):
        (tmp_path / f"{i}").write_bytes(data)
        for j, share in enumerate((0.3, 0.6, 0.99)):
            (tmp_path / f"{i}-{j}").write_bytes(data[: int(len(data) * share)])
    code = (
        "import pathlib, sys\n"
        "from ipt_jax.images.decode import DecodeError, decode\n"
        "refused = 0\n"
        "for path in pathlib.Path(sys.argv[1]).iterdir():\n"
        "    try: decode(path.read_bytes())\n"
        "    except DecodeError: refused += 1\n"
        "print(refused)\n"
    )
    root = places.ROOT
    command = [sys.executable, "-c", code, str(tmp_path)]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=root, check=True, timeout=120
    )
    assert (int(result.stdout), result.stderr) == (3 * len(VARIETY), "")


def _cut(data: bytes, share: float) -> bytes:
    """Returns a JPEG of which a share of the entropy-coded data is left, with its end marker."""
    start = check_jpeg(data, 10**9).scan
    return data[: start + int(share * (len(data) - start))].rstrip(b"\xff") + b"\xff\xd9"


@pytest.mark.parametrize("restart", [0, 1])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_part_of_a_jpeg_with_an_end_marker_is_refused(mode, progressive, restart, tmp_path):
    data = _encode(
        IMAGE, "JPEG", mode, quality=85, progressive=progressive, restart_marker_rows=restart
    )
    decode(data)
    for share in (0.05, 0.3, 0.5, 0.7, 0.9):
        # Training does not look for an end within the last scan of a progressive JPEG.
        if not progressive or share < 0.6:
            with pytest.raises(DecodeError, match="truncated"):
                decode(_cut(data, share))
        (tmp_path / "a.jpg").write_bytes(_cut(data, share))
        with pytest.raises(DecodeError, match="truncated"):
            read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("value", [127, 128, 129, 255])
@pytest.mark.parametrize("progressive", [False, True])
def test_plain_images_are_not_taken_for_truncated_ones(value, progressive, tmp_path):
    plain = np.full((301, 203, 3), value, np.uint8)
    data = _encode(plain, "JPEG", progressive=progressive, optimize=True)
    np.testing.assert_array_equal(decode(data), plain)
    (tmp_path / "a.jpg").write_bytes(data)
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg").pixels, plain)


def test_a_small_jpeg_that_announces_a_large_image_is_refused_before_it_is_decoded(tmp_path):
    data = bytearray(VARIETY["jpeg"])
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 7600, 65500)
    (tmp_path / "a.jpg").write_bytes(bytes(data[: data.index(b"\xff\xda") + 60]) + b"\xff\xd9")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (read_image, lambda path: decode(path.read_bytes())):
        with pytest.raises(DecodeError, match="bytes cannot hold 65500x7600 pixels"):
            read(tmp_path / "a.jpg")
    # In KiB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


def test_only_regular_files_of_bounded_size_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as one, open(tmp_path / "sparse.png", "wb") as sparse:
        one.bind(str(tmp_path / "socket.png"))
        sparse.truncate(200 << 30)
        for name, reason in (
            ("pipe", "it is a named pipe, not a regular file"),
            ("zero", "it is a device, not a regular file"),
            ("folder", "it is a folder, not a regular file"),
            ("socket", "it is a socket, not a regular file"),
            ("sparse", "it has 214,748,364,800 bytes, more than the limit of 2,147,483,648"),
        ):
            path = tmp_path / f"{name}.png"
            assert measure(path) is None
            with pytest.raises(DecodeError, match=f"^{reason}$"):
                read_image(path)
            with pytest.raises(DataError, match=f"{name}.png: {reason}$"):
                read_picture(path)
    # This file in /proc is regular and empty, and reading it never ends.
    (tmp_path / "proc.png").symlink_to("/proc/self/pagemap")
    with pytest.raises(DecodeError, match="an empty file"):
        read_image(tmp_path / "proc.png")
