"""What libjpeg warns of is named; other damage to the pixels of a JPEG cannot be seen."""

from __future__ import annotations

import io
import json

import cv2
import mixed
import numpy as np
import pytest
from PIL import Image

from ipt_jax.cli.app import main
from ipt_jax.data.layouts import read_picture
from ipt_jax.data.pipeline import Batches
from ipt_jax.data.sources.folder import Folder
from ipt_jax.errors import DecodeError
from ipt_jax.images.decode import check_jpeg, decode, decode_warning
from ipt_jax.images.read import decode_image
from ipt_jax.tasks import make_tasks

PIXELS = mixed.smooth(160, 200, 3, seed=2)
PIXELS = (PIXELS + np.random.default_rng(0).normal(0, 9, PIXELS.shape)).clip(0, 255)


def encode(mode: str = "RGB", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS.astype(np.uint8)).convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


WHOLE = encode(quality=90)


def damaged(seed: int) -> bytes:
    """Returns the JPEG with some bytes in the middle of its pixels replaced."""
    rng = np.random.default_rng(seed)
    data = bytearray(WHOLE)
    at = int(rng.integers(check_jpeg(WHOLE, 10**6).scan + 99, len(data) - 99))
    data[at : at + 8] = rng.integers(1, 255, 8, dtype=np.uint8).tobytes()
    return bytes(data)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}],
    ids=str,
)
def test_intact_files_have_no_warning(mode, options):
    data = encode(mode, **options)
    assert decode_warning(data) == "" and decode_image(data).notes in ((), ("CMYK became sRGB",))
    for padding in (b"\0" * 99, b"\n"):
        assert decode_warning(data + padding) == ""


def test_other_kinds_of_jpeg_and_other_formats_have_no_warning():
    assert decode_warning(encode(keep_rgb=True)) == ""
    ycck = bytearray(encode("CMYK"))
    ycck[ycck.index(b"Adobe") + 11] = 2
    assert decode_warning(bytes(ycck)) == ""
    stream = io.BytesIO()
    Image.fromarray(PIXELS.astype(np.uint8)).save(stream, "PNG")
    assert decode_warning(stream.getvalue()) == ""


def test_damage_that_the_decoder_notices_is_named(capfd):
    files = [damaged(seed) for seed in range(40)]
    warnings = [decode_warning(data) for data in files]
    found = [warning for warning in warnings if warning]
    # All are decoded, and about a quarter of them with a warning.
    assert all(decode(data).shape == (160, 200, 3) for data in files)
    assert 5 <= len(found) < 40
    assert any("Corrupt JPEG data" in warning for warning in found)
    capfd.readouterr()
    for data, warning in zip(files, warnings):
        notes = decode_image(data).notes
        assert notes == ((f"the file is damaged ({warning})",) if warning else ())
    assert capfd.readouterr().err == ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    seed = next(seed for seed in range(40) if decode_warning(damaged(seed)))
    (folder / "bad.jpg").write_bytes(damaged(seed))
    (folder / "good.jpg").write_bytes(WHOLE)
    return folder, decode_warning(damaged(seed))


def test_data_check_names_the_file(folder, tmp_path, capsys):

    where, warning = folder
    out = tmp_path / "report.json"
    assert main(["data", "check", str(where), "--json", str(out)]) == 0
    said = capsys.readouterr().out
    assert "1 are damaged, and training would read them:" in said and f"bad.jpg: {warning}" in said
    assert json.loads(out.read_text())["damaged"] == {"bad.jpg": warning}


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_a_progressive_jpeg_that_ends_in_its_last_scan_is_truncated(mode, share):
    """With an end marker behind it, it decodes to an image that lacks the finest detail."""
    data = encode(mode, progressive=True, quality=90)
    scan = data.rfind(b"\xff\xda")
    cut = data[: scan + int(share * (len(data) - scan))] + b"\xff\xd9"
    with pytest.raises(DecodeError, match="truncated"):
        decode(cut)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"keep_rgb": True}], ids=str)
def test_the_strict_decoder_gives_opencvs_pixels(mode, options):
    data, said = encode(mode, **options), []
    image = decode(data, warn=said.append)
    assert not said
    if mode != "CMYK":
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        assert np.array_equal(image, cv2.imdecode(np.frombuffer(data, np.uint8), flags))


def test_training_and_evaluation_name_the_file(folder, caplog, capfd):
    """The image is used, since much of it is intact."""
    where, warning = folder
    tasks = make_tasks(["denoise50"])
    batches = Batches(source=Folder(where), tasks=tasks, seed=0, batch_size=2, tile=12, group=2)
    item = batches(0)
    assert item.damaged == [f"bad.jpg: {warning}"] and not item.replaced
    assert np.array_equal(read_picture(where / "bad.jpg"), decode((where / "bad.jpg").read_bytes()))
    assert f"bad.jpg is damaged ({warning})" in caplog.text
    # libjpeg's own lines on stderr name no file.
    assert "Corrupt JPEG" not in capfd.readouterr().err.replace(f"({warning})", "")
