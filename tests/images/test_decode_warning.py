"""What libjpeg warns of is named; other damage to the pixels of a JPEG cannot be seen."""

from __future__ import annotations

import io
import json

import mixed
import numpy as np
import pytest
from PIL import Image

from ipt_jax.cli.app import main
from ipt_jax.images.decode import check_jpeg, decode, decode_warning
from ipt_jax.images.read import decode_image

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
