"""What files hold beside their pixels: what is kept, converted or named, in each format."""

from __future__ import annotations

import io
import os
import pathlib
import struct
import zlib

import mixed
import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from ipt_jax.errors import DecodeError
from ipt_jax.images import icc, metadata
from ipt_jax.images.decode import decode
from ipt_jax.images.metadata import Metadata
from ipt_jax.images.origin import Origin
from ipt_jax.images.pillow import from_array, to_array
from ipt_jax.images.png import PngWriter
from ipt_jax.images.png_chunks import keywords, pack_chunk, text_of
from ipt_jax.images.read import decode_image, measure, read_image, read_origin
from ipt_jax.images.write import FORMATS, Form, part_path, writing

RGB = mixed.smooth(40, 50, 3, seed=1)
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" '
    b'exif:PixelXDimension="70"><tiff:ImageWidth>70</tiff:ImageWidth>'
    b"<dc:title>A title</dc:title></rdf:Description></x:xmpmeta>"
)
# Record 2, data set 120 (caption).
IPTC = b"\x1c\x02\x78\x00\x09A caption"
GAMMA = (b"gAMA", struct.pack(">I", 100_000))
CHROMATICITIES = (
    b"cHRM",
    struct.pack(">8I", 31270, 32900, 70800, 29200, 17000, 79700, 13100, 4600),
)
TEXTS = (
    (b"tEXt", b"Author\0A. Person"),
    (b"zTXt", b"Title\0\0" + zlib.compress(b"A title")),
    (b"iTXt", b"Description\0\0\0de\0\0" + "Größe".encode()),
)
ORIGIN = Origin("../in/photo.jpg", "ab" * 32, ("denoise50", "sr2"))


def png(*chunks: tuple[bytes, bytes], pixels: np.ndarray = RGB) -> bytes:
    """Returns a PNG with these chunks in front of its pixels."""
    stream = io.BytesIO()
    depth = 8 * pixels.itemsize
    packed = b"".join(pack_chunk(*chunk) for chunk in chunks)
    writer = PngWriter(stream, *pixels.shape, depth, packed)
    writer.write(pixels)
    writer.close()
    return stream.getvalue()


def chunk(data: bytes, kind: bytes) -> list[bytes]:
    """Returns the bodies of the chunks of a kind, by a walk of its own."""
    at, found = 8, []
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if name == kind:
            found.append(data[at + 8 : at + 8 + size])
        at += size + 12
    return found


def grey_profile(curve: bytes = b"curv" + struct.pack(">IIH", 0, 1, round(1.8 * 256))) -> bytes:
    """Returns a profile for grey with a gamma of 1.8."""
    rgb = icc.make_rgb_profile(icc.SRGB_CHROMATICITIES, curve)
    return rgb[:16] + b"GRAY" + rgb[20:].replace(b"rTRC", b"kTRC")


def write(path: pathlib.Path, pixels: np.ndarray, held: Metadata, form: str, **more):
    """Writes an image; returns the notes on what the format cannot hold."""
    fitted, notes = Form(form, *pixels.shape, 8 * pixels.itemsize, held, **more).fitted()
    with writing(path, fitted) as writer:
        writer.write(pixels)
    return notes


@pytest.mark.parametrize("form", FORMATS)
def test_resolution_xmp_iptc_and_text_are_kept_or_named(form, tmp_path):
    path = tmp_path / f"x{FORMATS[form]}"
    comment = (b"iTXt", b"Comment\0\0\0\0\0A comment")
    held = Metadata(
        xmp=XMP, iptc=IPTC, dpi=(300.0, 150.0), texts=(*TEXTS, comment), exif=mixed_exif()
    )
    notes = " ".join(write(path, RGB, held, form, origin=ORIGIN))
    back = read_image(path).held
    assert read_origin(path) == ORIGIN
    if form != "webp":
        np.testing.assert_allclose(back.dpi, (300, 150), atol=0.02)
    else:
        np.testing.assert_allclose(back.dpi, (300, 150), atol=1e-6)
    assert ("XMP" in notes) == (form == "bmp") == (back.xmp == b"")
    if back.xmp:
        assert b'tiff:Orientation="1"' in back.xmp and b'PixelXDimension="50"' in back.xmp
        assert b"<tiff:ImageWidth>50</tiff:ImageWidth>" in back.xmp and b"A title" in back.xmp
    assert ("IPTC" in notes) == (form in ("webp", "bmp")) == (back.iptc == b"")
    assert back.iptc in (b"", IPTC)
    named = {"Author", "Title", "Description", "Comment"}
    assert set(keywords(back.texts)) == {"png": named, "jpeg": {"Comment"}}.get(form, set())
    assert ("text (Author, Title, Description" in notes) == (form != "png")
    assert bool(back.exif) == (form != "bmp") == ("EXIF" not in notes)
    # The record is not taken for EXIF of the image.
    assert b"ipt_jax" not in back.exif


def mixed_exif() -> bytes:
    return mixed.exif().tobytes().removeprefix(b"Exif\0\0")


def test_other_programs_read_what_is_written(tmp_path):
    held = Metadata(xmp=XMP, iptc=IPTC, dpi=(300.0, 300.0), texts=TEXTS, exif=mixed_exif())
    for form in ("png", "jpeg", "tiff", "webp"):
        path = tmp_path / f"x{FORMATS[form]}"
        write(path, RGB, held, form, origin=ORIGIN)
        with Image.open(path) as image:
            image.load()
            assert image.getexif()[0x010F] == "A maker"
            assert b"A title" in (image.info.get("xmp") or image.text["XML:com.adobe.xmp"].encode())
            if form != "webp":
                np.testing.assert_allclose([float(x) for x in image.info["dpi"]], 300, atol=0.01)
            if form == "png":
                assert image.text["Description"] == "Größe" and image.text["Title"] == "A title"
                assert IPTC.hex() in image.text["Raw profile type iptc"]
                assert "denoise50" in image.text["ipt_jax"]
            if form == "jpeg":
                assert image.info["photoshop"][0x0404] == IPTC
            if form == "tiff":
                assert image.tag_v2[33723] == IPTC


def test_a_pngs_colour_chunks_and_resolution_are_the_same_bytes_in_a_png(tmp_path):
    chunks = (
        (b"cICP", bytes((9, 16, 0, 1))),
        (b"sRGB", b"\0"),
        GAMMA,
        CHROMATICITIES,
        (b"pHYs", struct.pack(">IIB", 11811, 5906, 1)),
    )
    image = decode_image(png(*chunks))
    assert write(tmp_path / "x.png", RGB, image.held, "png") == []
    written = (tmp_path / "x.png").read_bytes()
    for kind, body in chunks:
        assert chunk(written, kind) == [body]
    aspect = decode_image(png((b"pHYs", struct.pack(">IIB", 2, 1, 0)))).held
    write(tmp_path / "y.png", RGB, aspect, "png")
    assert chunk((tmp_path / "y.png").read_bytes(), b"pHYs") == [struct.pack(">IIB", 2, 1, 0)]
    assert "the ratio of a pixel's sides" in write(tmp_path / "y.jpg", RGB, aspect, "jpeg")[0]


@pytest.mark.parametrize("form", ["jpeg", "webp", "tiff"])
def test_gamma_and_chromaticities_of_a_png_become_a_profile_elsewhere(form, tmp_path):
    path = tmp_path / f"x{FORMATS[form]}"
    held = decode_image(png(GAMMA, CHROMATICITIES)).held
    assert write(path, RGB, held, form) == []
    profile = ImageCms.ImageCmsProfile(io.BytesIO(read_image(path).profile))
    red, green = profile.profile.red_colorant, profile.profile.green_colorant
    # BT.2020 as D50: the columns of its published ICC profiles.
    np.testing.assert_allclose(red[0], (0.673, 0.279, -0.002), atol=0.002)
    np.testing.assert_allclose(green[0], (0.166, 0.675, 0.030), atol=0.002)
    # Linear light: half of white is 188 in sRGB.
    grey = Image.new("RGB", (1, 1), (128, 128, 128))
    srgb = ImageCms.profileToProfile(grey, profile, ImageCms.createProfile("sRGB"))
    assert srgb.getpixel((0, 0)) == (188, 188, 188)


def test_usual_values_need_no_profile_and_others_are_named(tmp_path):
    usual = Metadata(colour=((b"gAMA", struct.pack(">I", 45455)),))
    assert write(tmp_path / "a.jpg", RGB, usual, "jpeg") == []
    assert read_image(tmp_path / "a.jpg").profile is None
    named = Metadata(colour=((b"sRGB", b"\0"), GAMMA))
    assert write(tmp_path / "b.jpg", RGB, named, "jpeg") == []
    assert read_image(tmp_path / "b.jpg").profile is None
    for values, form in ((bytes((9, 16, 0, 1)), "jpeg"), (bytes((12, 13, 0, 1)), "tiff")):
        notes = write(tmp_path / "c", RGB, Metadata(colour=((b"cICP", values),)), form)
        assert "cICP" in notes[0]
    grey = write(tmp_path / "d.jpg", RGB[..., :1], Metadata(colour=(GAMMA,)), "jpeg")
    assert "gAMA" in grey[0]


@pytest.mark.parametrize(
    "form, channels, depth", [("webp", 1, 8), ("webp", 2, 8), ("tiff", 2, 16), ("jpeg", 2, 8)]
)
def test_a_profile_for_grey_never_ends_in_an_rgb_file(form, channels, depth, tmp_path):
    path = tmp_path / f"x{FORMATS[form]}"
    top = 255 if depth == 8 else 65535
    pixels = mixed.smooth(30, 40, channels, top, seed=4)
    pixels[..., 0] = top // 2
    more = dict(background=(255, 0, 0)) if form == "jpeg" else {}
    pixels[..., 1:] = top
    assert write(path, pixels, Metadata(profile=grey_profile()), form, quality=100, **more) == []
    back = read_image(path)
    assert back.pixels.shape[2] > 2 and icc.colour_space(back.profile) == "RGB"
    # The shown grey is that of the profile for grey: (127 / 255) ** 1.8 in linear light.
    profile = ImageCms.ImageCmsProfile(io.BytesIO(back.profile))
    linear = ImageCms.ImageCmsProfile(io.BytesIO(icc.rgb_from_gamma(1.0)))
    colour = Image.fromarray(decode(path.read_bytes()))
    shown = np.asarray(ImageCms.profileToProfile(colour, profile, linear))
    assert np.abs(shown.astype(float) - 255 * (127 / 255) ** 1.8).max() <= 1.5


def test_a_profile_that_does_not_fit_the_colours_is_left_out(tmp_path):
    held = Metadata(profile=grey_profile())
    for form in ("png", "jpeg", "tiff"):
        (note,) = write(tmp_path / "x", RGB, held, form)
        assert note == "its GRAY profile does not fit an RGB image: left out"
        assert read_image(tmp_path / "x").profile is None
    # It stays with grey.
    assert write(tmp_path / "x", RGB[..., :1], held, "png") == []
    assert read_image(tmp_path / "x").profile == held.profile
    # A profile for grey without a curve, which only holds a table.
    without = Metadata(profile=grey_profile().replace(b"kTRC", b"A2B0"))
    assert "GRAY profile" in write(tmp_path / "x.webp", RGB[..., :1], without, "webp")[0]


LARGE = b"A" * 3_000_000
LARGE_CHUNKS = {
    "zTXt": (b"zTXt", b"Big\0\0" + zlib.compress(LARGE)),
    "iTXt": (b"iTXt", b"Big\0\1\0\0\0" + zlib.compress(LARGE)),
    "tEXt": (b"tEXt", b"Big\0" + LARGE),
    "uncompressed iTXt of 20 MB": (b"iTXt", b"Big\0\0\0\0\0" + b"A" * 20_000_000),
    "iCCP": (b"iCCP", b"x\0\0" + zlib.compress(os.urandom(2_000_000))),
    "XMP": (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(LARGE)),
}


@pytest.mark.parametrize("kind", LARGE_CHUNKS)
@pytest.mark.parametrize("depth", [8, 16])
def test_a_png_with_large_text_or_profile_is_read_and_written(kind, depth, tmp_path, capfd):
    pixels = RGB if depth == 8 else RGB.astype(np.uint16) * 257
    data = png(LARGE_CHUNKS[kind], pixels=pixels)
    (tmp_path / "in.png").write_bytes(data)
    image = read_image(tmp_path / "in.png")
    np.testing.assert_array_equal(image.pixels, pixels)
    np.testing.assert_array_equal(decode(data), RGB)
    assert measure(tmp_path / "in.png") == (40, 50)
    if kind == "iCCP":
        assert len(image.profile) == 2_000_000
        return
    assert write(tmp_path / "out.png", pixels, image.held, "png", origin=ORIGIN) == []
    again = read_image(tmp_path / "out.png")
    np.testing.assert_array_equal(again.pixels, pixels)
    assert again.held.texts == image.held.texts and again.held.xmp == image.held.xmp
    assert read_origin(tmp_path / "out.png") == ORIGIN
    assert capfd.readouterr().err == ""


def test_text_that_unpacks_to_gigabytes_is_left_packed_or_left_out():
    packer = zlib.compressobj()
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(300)) + packer.flush()
    image = decode_image(png((b"zTXt", b"Big\0\0" + packed), (b"iCCP", b"x\0\0" + packed)))
    assert len(image.held.texts) == 1 and image.profile is None
    assert image.notes == ("its iCCP cannot be read and is left out",)
    with pytest.raises(ValueError, match="too large"):
        text_of(*image.held.texts[0])


@pytest.mark.parametrize(
    "bad",
    [
        (b"zTXt", b"x"),
        (b"iTXt", b"XML:com.adobe.xmp\0\1"),
        (b"iCCP", b"x\0\0nothing"),
        (b"pHYs", b"1234"),
        (b"tEXt", b"Raw profile type iptc\0nothing"),
        (b"zTXt", b"Raw profile type exif\0\0nothing"),
        (b"tEXt", b'ipt_jax\0{"ipt_jax": 1}'),
        (b"eXIf", b"II*\0"),
        (b"cHRM", b"1"),
        (b"gAMA", b""),
    ],
    ids=lambda bad: repr(bad[1][:30]),
)
def test_damaged_metadata_is_no_reason_to_refuse_an_image(bad, tmp_path):
    image = decode_image(png(bad))
    np.testing.assert_array_equal(image.pixels, RGB)
    for form in FORMATS:
        write(tmp_path / f"x{FORMATS[form]}", RGB, image.held, form)


def test_metadata_that_does_not_fit_into_a_jpeg_is_named(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "A" * 70_000
    held = Metadata(exif=exif.tobytes().removeprefix(b"Exif\0\0"), xmp=b"<x>" + b" " * 70_000)
    (note,) = write(tmp_path / "x.jpg", RGB, held, "jpeg", origin=ORIGIN)
    assert "70,0" in note and "bytes of EXIF" in note and "bytes of XMP" in note
    assert read_origin(tmp_path / "x.jpg") == ORIGIN


def test_turning_an_image_upright_swaps_its_resolutions():
    stream = io.BytesIO()
    Image.fromarray(RGB).save(stream, "JPEG", exif=mixed.exif(6), dpi=(300, 150))
    held = decode_image(stream.getvalue()).held
    assert held.dpi == (150, 300)


def test_exif_and_iptc_that_imagemagick_stores_as_text_are_read():
    block = mixed.exif().tobytes()
    block = block if block.startswith(b"Exif\0\0") else b"Exif\0\0" + block
    photoshop = metadata.resources_of_iptc(IPTC)

    def raw(name: bytes, data: bytes) -> tuple[bytes, bytes]:
        text = b"\n%s\n%8d\n%s\n" % (name, len(data), data.hex().encode())
        return b"zTXt", b"Raw profile type %s\0\0" % name + zlib.compress(text)

    held = decode_image(png(raw(b"exif", block), raw(b"iptc", photoshop))).held
    assert metadata.parsed(held.exif)[0x010F] == "A maker"
    assert held.iptc == IPTC and held.texts == ()


def test_a_transparent_value_of_sixteen_bit_grey_becomes_alpha():
    deep = mixed.smooth(20, 20, 1, 65535)
    deep[3, 4] = 7
    image = decode_image(png((b"tRNS", struct.pack(">H", 7)), pixels=deep))
    assert image.pixels.shape == (20, 20, 2)
    np.testing.assert_array_equal(image.pixels[..., 1] == 0, deep[..., 0] == 7)


@pytest.mark.parametrize("form", FORMATS)
def test_names_of_250_to_255_bytes_can_be_written(form, tmp_path):
    for length in range(250, 256):
        path = tmp_path / ("é" * 100 + "n" * (length - 200 - len(FORMATS[form])) + FORMATS[form])
        assert len(os.fsencode(path.name)) == length
        write(path, RGB, Metadata(), form, origin=ORIGIN)
        assert read_origin(path) == ORIGIN and len(os.fsencode(part_path(path).name)) < 50
    assert not list(tmp_path.glob("*.part*")) and not list(tmp_path.glob(".*.part*"))


def test_another_file_in_the_place_of_a_bmp_has_no_origin(tmp_path):
    write(tmp_path / "x.bmp", RGB, Metadata(), "bmp", origin=ORIGIN)
    assert read_origin(tmp_path / "x.bmp") == ORIGIN
    Image.fromarray(RGB[:9]).save(tmp_path / "x.bmp")
    assert read_origin(tmp_path / "x.bmp") is None


def test_files_of_unknown_origin(tmp_path):
    for name, data in (
        ("a.png", png()),
        ("b.png", b"hello"),
        ("c.png", png()[:40]),
        ("d.jpg", b"\xff\xd8"),
        ("e.txt", b""),
    ):
        (tmp_path / name).write_bytes(data)
        assert read_origin(tmp_path / name) is None
    assert read_origin(tmp_path / "none.png") is None and read_origin(tmp_path) is None
    assert Origin.parse('{"ipt_jax": {"source": 1, "sha256": "", "tasks": []}}') is None
    assert Origin.parse('{"ipt_jax": ' + "[" * 50_000) is None
    with pytest.raises(DecodeError):
        read_image(tmp_path / "b.png")


def test_a_pillow_image_keeps_what_holds_for_its_result():
    stream = io.BytesIO()
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "A title")
    text.add(b"gAMA", GAMMA[1])
    stored = Image.fromarray(RGB)
    stored.save(
        stream, "PNG", pnginfo=text, dpi=(300, 300), exif=mixed.exif(), icc_profile=mixed.PROFILE
    )
    image = Image.open(io.BytesIO(stream.getvalue()))
    image.load()
    made = from_array(RGB.repeat(2, 0).repeat(2, 1), image)
    assert made.info["Title"] == "A title" and made.info["gamma"] == 1.0
    assert made.info["icc_profile"] == mixed.PROFILE
    np.testing.assert_allclose(made.info["dpi"], (300, 300), atol=0.01)
    block = metadata.parsed(made.info["exif"].removeprefix(b"Exif\0\0"))
    assert (block.get_ifd(0x8769)[0xA002], block.get_ifd(0x8769)[0xA003]) == (100, 80)
    # The pixels of a Pillow image are not turned, so its orientation still holds.
    turned = Image.fromarray(RGB)
    turned.info["exif"] = mixed.exif(6).tobytes()
    kept = from_array(RGB, turned).info["exif"]
    assert metadata.parsed(kept.removeprefix(b"Exif\0\0"))[0x0112] == 6
    # A profile for grey stays with grey only.
    for mode, stays in (("L", True), ("LA", True), ("RGB", False), ("P", False)):
        other = Image.fromarray(RGB).convert(mode)
        other.info["icc_profile"] = grey_profile()
        made = from_array(to_array(other), other)
        assert ("icc_profile" in made.info) == stays


def test_chunks_that_do_not_hold_for_other_pixels_are_named():
    data = png((b"bKGD", bytes(6)), (b"sBIT", b"\5\6\5"), (b"tIME", bytes(7)), GAMMA, *TEXTS)
    (note,) = decode_image(data).notes
    assert note == "its bKGD, sBIT, tIME left out, since the result has other pixels"
