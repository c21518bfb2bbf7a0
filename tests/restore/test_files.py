"""`ipt restore`: images of all kinds, wrong input and damaged files, videos."""

from __future__ import annotations

import os
import pathlib
import shutil

import mixed
import numpy as np
import pytest
from PIL import Image
from restoring import digests, restore

import ipt_jax
from ipt_jax.cli.app import main
from ipt_jax.images.read import read_image
from ipt_jax.images.resize import bicubic_up
from ipt_jax.restore import files as restore_files
from ipt_jax.weights import default as defaults


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> tuple[pathlib.Path, list[mixed.Case]]:
    folder = tmp_path_factory.mktemp("mixed")
    return folder, mixed.make(folder)


@pytest.mark.parametrize("form, suffix", [("png", ".png"), ("tiff", ".tif")])
def test_thirty_mixed_images_keep_what_their_files_hold(
    folder, copies, tmp_path, form, suffix, capsys
):
    source, cases = folder
    assert len(cases) == 30
    assert (
        restore(
            source,
            "--task",
            "denoise50",
            "--weights",
            copies,
            "-o",
            tmp_path / "a",
            "--format",
            form,
        )
        == 0
    )
    said = capsys.readouterr()
    assert "30 restored" in said.out
    # A PNG holds all frames of an animation, and a TIFF the first.
    assert ("moving.gif: the first of 3 frames" in said.err) == (form == "tiff")
    assert len(digests(tmp_path / "a")) == 30
    for case in cases:
        out = read_image((tmp_path / "a" / case.name).with_suffix(suffix))
        pixels = case.pixels
        if form == "tiff" and (pixels.shape[2], pixels.dtype) == (2, np.uint16):
            # Few readers know this kind of TIFF, so it is written as RGBA.
            pixels = pixels[..., [0, 0, 0, 1]]
        assert out.pixels.dtype == pixels.dtype and out.pixels.shape == pixels.shape, case.name
        difference = np.abs(out.pixels.astype(int) - pixels.astype(int))
        assert difference.max() <= (12 if case.lossy else 0), case.name
        assert (out.profile is not None) == case.profile and (
            not case.profile or out.profile == mixed.PROFILE
        ), case.name
        assert bool(out.exif) == case.exif, case.name
        # Pillow must read the result and its metadata, too.
        with Image.open((tmp_path / "a" / case.name).with_suffix(suffix)) as opened:
            opened.load()
            if case.exif:
                block = opened.getexif()
                inner = block.get_ifd(0x8769)
                assert (
                    block[0x010F] == "A maker"
                    and block.get(0x0112, 1) == 1
                    and block.get_ifd(0x8825)[1] == "N"
                )
                assert inner[0x9003].startswith("2020:01:02") and (
                    inner[0xA002],
                    inner[0xA003],
                ) == (70, 50)
    assert (
        restore(
            source,
            "--task",
            "denoise50",
            "--weights",
            copies,
            "-o",
            tmp_path / "b",
            "--format",
            form,
        )
        == 0
    )
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_super_resolution_enlarges_pixels_alpha_and_sizes_in_exif(folder, copies, tmp_path):
    source, cases = folder
    assert restore(source, "--task", "sr2", "--weights", copies, "-o", tmp_path) == 0
    for case in cases:
        out = read_image((tmp_path / case.name).with_suffix(".png"))
        height, width, channels = case.pixels.shape
        assert (
            out.pixels.shape == (2 * height, 2 * width, channels)
            and out.pixels.dtype == case.pixels.dtype
        )
        if channels in (2, 4) and case.pixels.dtype == np.uint8:
            np.testing.assert_array_equal(out.pixels[..., -1], bicubic_up(case.pixels[..., -1], 2))
        if channels in (2, 4) and case.pixels.dtype == np.uint16:
            # Pillow has the same kernel, but another border than the symmetric one.
            edged = np.pad(case.pixels[..., -1].astype(np.float32), 4, mode="symmetric")
            size = (2 * edged.shape[1], 2 * edged.shape[0])
            exact = np.asarray(Image.fromarray(edged).resize(size, Image.Resampling.BICUBIC))
            exact = np.clip(exact[8:-8, 8:-8], 0, 65535)
            # Half a level of rounding; float32 has 256 steps a level at 65,535.
            assert np.abs(out.pixels[..., -1] - exact).max() < 0.55
            assert len(np.unique(out.pixels[..., -1])) > 256
    with Image.open(tmp_path / "jpeg" / "all.png") as opened:
        inner = opened.getexif().get_ifd(0x8769)
        assert (inner[0xA002], inner[0xA003]) == (140, 100)


@pytest.mark.parametrize(
    "form, suffix, kept", [("jpeg", ".jpg", 3), ("webp", ".webp", 4), ("bmp", ".bmp", 3)]
)
def test_other_formats_keep_what_they_can_and_report_what_they_lose(
    folder, copies, tmp_path, form, suffix, kept, capsys
):
    source, _ = folder
    words = (
        "--task",
        "denoise50",
        "--weights",
        copies,
        "-o",
        tmp_path,
        "--format",
        form,
        "--quality",
        100,
    )
    names = ("png/rgba16.png", "webp/lossless.webp", "png/grey_alpha.png")
    assert restore(*(source / name for name in names), *words) == 0
    said = capsys.readouterr().err
    assert f"{form} cannot hold 16 bits (rounded to 8)" in said
    deep = read_image(tmp_path / f"rgba16{suffix}").pixels
    expected = read_image(source / "png/rgba16.png").pixels[..., :kept] / 257
    assert (
        deep.dtype == np.uint8
        and deep.shape[2] == kept
        and np.abs(deep - expected).max() <= (4 if form == "jpeg" else 0.51)
    )
    other = read_image(tmp_path / f"lossless{suffix}")
    assert bool(other.exif) == bool(other.profile) == (form != "bmp")
    assert read_image(tmp_path / f"grey_alpha{suffix}").pixels.shape[2] == (
        4 if form == "webp" else 1
    )
    assert ("alpha" in said) == (form != "webp") and ("colour profile and EXIF" in said) == (
        form == "bmp"
    )


def test_files_are_what_model_restore_gives_also_for_a_chain_of_tasks(weights, folder, tmp_path):
    source, _ = folder
    model = ipt_jax.load(weights)
    for task in ("sr2", "denoise50,sr2"):
        out = tmp_path / f"{task}.png"
        assert (
            restore(source / "png" / "rgba.png", "--task", task, "--weights", weights, "-o", out)
            == 0
        )
        with Image.open(source / "png" / "rgba.png") as image:
            expected = model.restore(image, task, overlap=4, batch=2)
        np.testing.assert_array_equal(read_image(out).pixels, np.asarray(expected))
        np.testing.assert_array_equal(
            np.asarray(expected),
            model.restore(np.asarray(image), task.split(","), overlap=4, batch=2),
        )
        assert expected.info["icc_profile"] == mixed.PROFILE


def test_names_of_results(folder, copies, tmp_path, capsys, monkeypatch):
    source, _ = folder
    monkeypatch.chdir(tmp_path)
    words = ("--task", "denoise50", "--weights", copies)
    shutil.copy(source / "jpeg" / "plain.jpg", tmp_path / "x.jpg")
    shutil.copy(source / "png" / "rgb.png", tmp_path / "x.png")
    assert restore("x.jpg", *words) == 0 and (tmp_path / "restored" / "x.png").is_file()
    assert restore("x.*", *words, "-o", "globbed") == 0
    assert sorted(p.name for p in (tmp_path / "globbed").iterdir()) == ["x.jpg.png", "x.png.png"]
    # The output folder is inside the input folder and must not become an input.
    assert restore(".", *words, "-o", "restored") == 0
    # Neither do the results in "globbed".
    assert "2 results of earlier runs are not restored again" in capsys.readouterr().out
    assert sorted(digests(tmp_path / "restored")) == ["x.jpg.png", "x.png", "x.png.png"]
    assert restore("x.jpg", *words, "-o", "y.webp") == 0 and read_image(tmp_path / "y.webp")
    before = (tmp_path / "y.webp").read_bytes()
    assert restore("x.png", *words, "-o", "y.webp") == 1
    assert "y.webp" in capsys.readouterr().out and (tmp_path / "y.webp").read_bytes() == before
    assert (
        restore("x.png", *words, "-o", "y.webp", "--overwrite") == 0
        and (tmp_path / "y.webp").read_bytes() != before
    )
    assert not [p for p in tmp_path.rglob("*") if ".part" in p.name]


def test_a_comparison_sheet(folder, copies, tmp_path):
    source, cases = folder
    assert restore(source, "--task", "sr2", "--weights", copies, "-o", tmp_path, "--compare") == 0
    sheet = read_image(tmp_path / "compare.png").pixels
    assert sheet.shape[1] > 700 and sheet.shape[0] > 200 * len(cases)


BAD = {
    "a missing file": (["nothing.png"], "there is no such file"),
    "a folder without pictures": (["empty"], "no images"),
    "a glob without hits": (["*.xyz"], "nothing matches"),
    "an unknown task": (
        ["good.png", "--task", "sr3"],
        "no task 'sr3' (did you mean 'sr2'?); it has sr2, denoise50",
    ),
    "a folder that cannot be made": (["good.png", "-o", "good.png/out"], "cannot be made"),
    "one file for two results": (["good.png", "good2.png", "-o", "x.png"], "names one file"),
    "its own input": (["good.png", "-o", "good.png", "--overwrite"], "an input, would be replaced"),
    "format against name": (["good.png", "-o", "x.jpg", "--format", "png"], "do not go together"),
    "a quality": (["good.png", "--quality", "0"], "1..100"),
    "an overlap": (["good.png", "--overlap", "16"], "overlap=16"),
    "no weights there": (["good.png", "--weights", "none"], "there is no none"),
    "two of one name": (["good.png", "inner/good.png"], "would both be written to one file"),
}


@pytest.mark.parametrize("what", BAD)
def test_wrong_input_is_one_line_and_nothing_is_written(
    what, weights, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name in ("good.png", "good2.png", "inner/good.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder[0] / "png" / "rgb.png", tmp_path / name)
    (tmp_path / "empty").mkdir()
    before = digests(tmp_path)
    words, message = BAD[what]
    task = [] if "--task" in words else ["--task", "sr2"]
    given = [] if "--weights" in words else ["--weights", weights]
    code = main(["restore", *task, *given, *words])
    said = capsys.readouterr()
    assert (
        code == 2
        and message in said.err
        and len(said.err.strip().splitlines()) == 1
        and digests(tmp_path) == before
    )


def test_a_bad_file_does_not_stop_the_others(folder, copies, tmp_path, capsys):
    source = tmp_path / "in"
    source.mkdir()
    whole = (folder[0] / "png" / "rgb.png").read_bytes()
    jpeg = (folder[0] / "jpeg" / "plain.jpg").read_bytes()
    tiff = (folder[0] / "tiff" / "rgb.tif").read_bytes()
    bomb = bytearray(whole)
    bomb[16:24] = (30_000).to_bytes(4, "big") * 2
    import zlib

    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    bad = {
        "a.png": whole[:-60],
        "b.jpg": jpeg[: len(jpeg) // 2],
        "c.png": b"",
        "d.png": b"hello" * 9,
        "e.png": bytes(bomb),
        "f.tif": tiff[: len(tiff) // 2],
    }
    for name, data in bad.items():
        (source / name).write_bytes(data)
    (source / "z.png").write_bytes(whole)
    words = (source, "--task", "denoise50", "--weights", copies, "-o", tmp_path / "out")
    assert restore(*words) == 1
    said = capsys.readouterr()
    assert "1 restored" in said.out and "6 could not be restored" in said.err
    limit = "30000x30000 pixels are more than the limit of 500,000,000"
    assert f"e.png: {limit}; --max-megapixels raises it" in said.err
    assert (
        "a.png: the PNG is truncated" in said.err
        and "c.png: an empty file" in said.err
        and "d.png: not a JPEG" in said.err
    )
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["z.png"]
    assert restore(source / "z.png", *words[1:], "--overwrite", "--max-megapixels", "0.001") == 1
    assert "70x50" not in said.err and "--max-megapixels raises it" in capsys.readouterr().err


def test_protocols_that_hold_the_complete_image_refuse_large_images(
    folder, copies, tmp_path, capsys, monkeypatch
):
    words = (
        "--task",
        "denoise50",
        "--weights",
        copies,
        "-o",
        tmp_path / "x.png",
        "--protocol",
        "official",
    )
    assert restore(folder[0] / "png" / "rgb.png", *words) == 0
    monkeypatch.setattr(restore_files, "WHOLE_IMAGE_BYTES", 1000)
    assert restore(folder[0] / "png" / "rgb.png", *words, "--overwrite") == 1
    assert "holds the complete image" in capsys.readouterr().err


def test_default_weights_are_found_or_the_message_explains_how_to_get_some(
    folder, weights, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # The package contains weights, which must not be found here.
    monkeypatch.setattr(defaults, "SHIPPED", tmp_path / "none")
    words = (folder[0] / "one.png", "--task", "sr2", "-o", tmp_path / "x.png")
    assert restore(*words) == 2
    assert "ipt pretrain --config=configs/demo.py" in capsys.readouterr().err
    place = tmp_path / "cache" / "ipt_jax" / "weights" / "tiny"
    place.parent.mkdir(parents=True)
    assert main(["export", "--weights", weights, "--format", "folder", "--out", str(place)]) == 0
    assert restore(*words) == 0
    assert restore(*words[:2], "derain", *words[3:], "--overwrite") == 2
    assert "those found are for sr2, denoise50" in capsys.readouterr().err
    shutil.rmtree(place)
    monkeypatch.setenv("IPT_WEIGHTS", weights)
    assert restore(*words, "--overwrite") == 0


def test_a_video_without_ffmpeg_says_so(copies, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    (tmp_path / "in.mp4").write_bytes(b"x")
    assert (
        restore(tmp_path / "in.mp4", "--task", "sr2", "--weights", copies, "-o", tmp_path / "o")
        == 1
    )
    assert "which is not installed" in capsys.readouterr().err


def photo(path: pathlib.Path, **settings) -> pathlib.Path:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, **settings)
    return path


def test_unlucky_files_do_not_stop_the_others(copies, tmp_path, capsys):
    """Pipes, devices, endless files, and an exception that nobody foresaw."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    photo(source / "a.png")
    photo(source / "z.png")
    os.mkfifo(source / "b.png")
    os.mkfifo(source / "c.jpg")
    (source / "d.png").symlink_to("/dev/zero")
    with open(source / "e.tif", "wb") as file:
        file.truncate(200 << 30)
    name = os.fsdecode(b"f\x1b[2J\n\xff.png")
    (source / name).write_bytes(b"no picture")
    assert restore(source, "--task", "denoise50", "--weights", copies, "-o", out) == 1
    said = capsys.readouterr()
    assert "2 restored" in said.out and "5 could not be restored" in said.err
    assert sorted(file.name for file in out.iterdir()) == ["a.png", "z.png"]
    for text in (
        "b.png: it is a named pipe, not a regular file",
        "c.jpg: it is a named pipe, not a regular file",
        "d.png: it is a device, not a regular file",
        "e.tif: it has 214,748,364,800 bytes, more than the limit of 2,147,483,648",
        r"f\x1b[2J\n\udcff.png: not a JPEG",
    ):
        assert text in said.err, said.err
    assert "\x1b" not in said.err + said.out


def test_a_video_that_is_a_pipe_is_refused(copies, tmp_path, capsys):
    os.mkfifo(tmp_path / "a.mp4")
    assert restore(tmp_path / "a.mp4", "--weights", copies, "--task", "denoise50") == 1
    assert "a.mp4: it is a named pipe, not a regular file" in capsys.readouterr().err


def test_any_exception_of_one_file_is_listed(copies, tmp_path, capsys, monkeypatch):
    photo(tmp_path / "a.png")
    photo(tmp_path / "b.png")

    def read(path: pathlib.Path, limit: int) -> object:
        if path.name == "a.png":
            raise KeyError("unforeseen")
        return read_image(path, limit)

    monkeypatch.setattr(restore_files, "read_image", read)
    out = tmp_path / "out"
    assert restore(tmp_path, "--weights", copies, "--task", "denoise50", "-o", out) == 1
    said = capsys.readouterr()
    assert "1 restored" in said.out and "a.png: KeyError: 'unforeseen'" in said.err


@pytest.mark.parametrize("form", ["png", "jpeg", "tiff"])
def test_a_bigtiff_with_exif_is_restored(copies, tmp_path, form):
    exif = Image.Exif()
    exif[0x010F] = "A maker"
    exif.get_ifd(0x8769)[0xA002] = 24
    source = photo(tmp_path / "a.tif", big_tiff=True, exif=exif)
    assert source.read_bytes()[:4] == b"II+\0"
    words = ("--weights", copies, "--task", "denoise50", "-o", tmp_path / "out", "--format", form)
    assert restore(source, *words) == 0
    (result,) = (tmp_path / "out").iterdir()
    with Image.open(result) as opened:
        opened.load()
        assert opened.getexif()[0x010F] == "A maker"


def test_exif_that_a_jpeg_cannot_hold_is_left_out_and_named(copies, tmp_path, capsys):
    exif = Image.Exif()
    exif[0x010E] = "x" * 70_000
    source = photo(tmp_path / "a.png", exif=exif)
    words = ("--weights", copies, "--task", "denoise50", "-o", tmp_path / "out")
    assert restore(source, *words, "--format", "jpeg") == 0
    assert "jpeg cannot hold 70," in (said := capsys.readouterr().err) and "bytes of EXIF" in said
    with Image.open(tmp_path / "out" / "a.jpg") as opened:
        opened.load()
        # The record of the source and the tasks has room.
        assert 0x010E not in opened.getexif()
    exif[0x010E] = "x" * 63_000
    photo(source, exif=exif)
    assert restore(source, *words, "--format", "jpeg", "--overwrite") == 0
    with Image.open(tmp_path / "out" / "a.jpg") as opened:
        assert len(opened.getexif()[0x010E]) == 63_000
