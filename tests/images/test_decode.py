"""Decoding: the pixels of every kind of file equal Pillow's."""

import io
import os
import struct

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from ipt_jax.images.decode import decode


def _image(height: int = 61, width: int = 84) -> np.ndarray:
    """Returns a smooth image with some texture.

    Lossy formats change it little, and all eight orientations of it differ.
    """
    y, x = np.mgrid[:height, :width].astype(np.float64)
    noise = np.random.default_rng(0).normal(0, 4, (height, width, 3))
    waves = np.stack(
        [120 + 90 * np.sin(x / 17), 110 + 80 * np.cos(y / 13), 90 + x + y / 3], axis=-1
    )
    return (waves + noise).clip(0, 255).round().astype(np.uint8)


IMAGE = _image()


def _encode(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(stream, kind, **options)
    return stream.getvalue()


def _pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


def _mode(mode: str) -> Image.Image:
    picture = Image.fromarray(IMAGE)
    if mode.endswith("A"):
        picture.putalpha(Image.fromarray(IMAGE[:, :, 0]))
    return picture.convert(mode)


LOSSLESS = {"PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True, "exact": True}}


def _check(image: np.ndarray) -> None:
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    assert image.flags.c_contiguous and image.size


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_lossless_formats_equal_pillow(kind, mode):
    if (kind, mode) == ("BMP", "LA"):
        pytest.skip("Pillow does not write it")
    data = _encode(_mode(mode), kind, **LOSSLESS[kind])
    image = decode(data)
    _check(image)
    np.testing.assert_array_equal(image, _pillow(data))
    # Alpha is dropped, and the colours are not blended.
    if mode in ("RGB", "RGBA"):
        np.testing.assert_array_equal(image, IMAGE)


@pytest.mark.parametrize("options", [{"transparency": 3}, {"bits": 4}], ids=str)
def test_palette_png_equals_pillow(options):
    data = _encode(Image.fromarray(IMAGE).quantize(16), "PNG", **options)
    np.testing.assert_array_equal(decode(data), _pillow(data))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}], ids=str
)
def test_jpeg_equals_pillow_within_two_levels(mode, options):
    data = _encode(_mode(mode), "JPEG", quality=90, **options)
    image = decode(data)
    _check(image)
    assert np.abs(image.astype(int) - _pillow(data)).max() <= 2
    reference = np.asarray(_mode(mode).convert("RGB")).astype(int)
    # Colours are neither inverted nor swapped.
    assert np.abs(image - reference).mean() < 8


def test_jpeg_stored_as_rgb_or_ycck_equals_pillow():
    data = _encode(IMAGE, "JPEG", keep_rgb=True, quality=95)
    assert np.abs(decode(data).astype(int) - IMAGE).mean() < 3
    ycck = bytearray(_encode(_mode("CMYK"), "JPEG"))
    adobe = ycck.index(b"Adobe")
    assert ycck[adobe + 11] == 0
    # The same numbers, declared as YCCK.
    ycck[adobe + 11] = 2
    image = decode(bytes(ycck))
    np.testing.assert_array_equal(image, _pillow(bytes(ycck)))
    assert np.abs(image.astype(int) - decode(_encode(_mode("CMYK"), "JPEG"))).mean() > 10


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {} if kind == "JPEG" else LOSSLESS[kind]
    data = _encode(IMAGE, kind, exif=exif, **options)
    upright = {
        1: IMAGE,
        2: IMAGE[:, ::-1],
        3: IMAGE[::-1, ::-1],
        4: IMAGE[::-1],
        5: IMAGE.transpose(1, 0, 2),
        6: np.rot90(IMAGE, -1),
        7: np.rot90(IMAGE, 2).transpose(1, 0, 2),
        8: np.rot90(IMAGE, 1),
    }[orientation]
    image = decode(data)
    _check(image)
    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).mean() < (4 if kind == "JPEG" else 1e-9)
    np.testing.assert_array_equal(image, _pillow(data))


@pytest.mark.parametrize(
    "exif", [b"", b"II*\x00", b"MM\x00*\x00\x00\x00\x08\xff\xff\x01", b"\xff" * 40]
)
def test_broken_exif_is_ignored(exif):
    data = _encode(IMAGE, "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\x00\x00" + exif
    np.testing.assert_array_equal(decode(data[:2] + segment + data[2:]), decode(data))


@pytest.mark.parametrize("stray", [b"\xff\xff\xff", b"stray bytes", b"\xff\x01"])
def test_stray_bytes_between_segments_are_skipped(stray):
    data = _encode(IMAGE, "JPEG")
    first = 4 + int.from_bytes(data[4:6], "big")
    np.testing.assert_array_equal(decode(data[:first] + stray + data[first:]), decode(data))


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_rounded(suffix, channels):
    shape = (40, 50) if channels == 1 else (40, 50, channels)
    deep = np.random.default_rng(1).integers(0, 65536, shape, dtype=np.uint16)
    deep.flat[:6] = [0, 128, 129, 65535, 65407, 65406]
    data = cv2.imencode(suffix, deep)[1].tobytes()
    expected = np.rint(deep / 257).astype(np.uint8)
    expected = np.repeat(expected[..., None], 3, 2) if channels == 1 else expected[:, :, 2::-1]
    np.testing.assert_array_equal(decode(data), expected)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_sixteen_bit_tiff_is_turned_once(orientation):
    data = bytearray(cv2.imencode(".tiff", IMAGE.astype(np.uint16) * 257)[1].tobytes())
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    tags = [bytes(data[start + 2 + 12 * i :][:12]) for i in range(entries)]
    tags = [tag for tag in tags if tag[:2] != b"\x12\x01"] + [
        struct.pack("<HHIHxx", 274, 3, 1, orientation)
    ]
    tags.sort(key=lambda tag: struct.unpack_from("<H", tag))
    new = len(data) + len(data) % 2
    data += b"\0" * (new - len(data)) + struct.pack("<H", len(tags)) + b"".join(tags) + b"\0\0\0\0"
    data[4:8] = struct.pack("<I", new)
    turned = {1: IMAGE, 3: IMAGE[::-1, ::-1], 6: np.rot90(IMAGE, -1)}[orientation]
    np.testing.assert_array_equal(decode(bytes(data)), turned[:, :, ::-1])


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
def test_compressed_tiff_equals_pillow(compression):
    data = _encode(IMAGE, "TIFF", compression=compression)
    np.testing.assert_array_equal(decode(data), _pillow(data))


def test_of_several_frames_the_first_is_taken():
    first, second = Image.fromarray(IMAGE), Image.fromarray(255 - IMAGE)
    for kind in ("PNG", "WEBP", "TIFF"):
        data = _encode(first, kind, save_all=True, append_images=[second], **LOSSLESS[kind])
        np.testing.assert_array_equal(decode(data), IMAGE)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (7, 9)])
def test_tiny_pictures(shape):
    for kind in ("JPEG", *LOSSLESS):
        assert decode(_encode(_image(*shape), kind)).shape == (*shape, 3)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("BMP", {}), ("TIFF", {})],
)
def test_padding_after_the_end_is_no_damage(kind, options):
    data = _encode(IMAGE, kind, **options)
    for padding in (b"\0" * 4096, b"\n", os.urandom(64)):
        np.testing.assert_array_equal(decode(data + padding), decode(data))


def test_decoding_is_deterministic():
    for kind in ("JPEG", *LOSSLESS):
        data = _encode(IMAGE, kind)
        first = decode(data)
        for _ in range(3):
            np.testing.assert_array_equal(decode(bytearray(data)), first)
