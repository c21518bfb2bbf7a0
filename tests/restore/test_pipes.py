"""Standard input and standard output: in real processes, and what is refused."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import mixed
import numpy as np
import places
import pytest
from PIL import Image
from restoring import restore

import ipt_jax


def run(*words: object, data: bytes) -> subprocess.CompletedProcess[bytes]:
    """Runs `ipt restore` in a process of its own."""
    command = [sys.executable, "-m", "ipt_jax", "restore", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(places.ROOT)}
    return subprocess.run(command, input=data, capture_output=True, timeout=300, env=environment)


def encoded(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_an_image_goes_through_pipes(weights):
    pixels = mixed.smooth(20, 30, 3, seed=5)
    words = ("--task", "sr2", "--weights", weights, "--overlap", 4, "--batch", 2)
    done = run("-", *words, "-o", "-", "--format", "webp", "--quality", 100, data=encoded(pixels))
    assert done.returncode == 0, done.stderr
    with Image.open(io.BytesIO(done.stdout)) as image:
        assert image.format == "WEBP"
        out = np.asarray(image)
    wanted = ipt_jax.load(weights).restore(pixels, "sr2", overlap=4, batch=2)
    np.testing.assert_array_equal(out, wanted)
    assert b"1 restored" in done.stderr and b"/" not in done.stderr.split(b"1 restored")[1]


@pytest.fixture
def piped(monkeypatch, capfdbinary):
    """Runs `ipt restore` in this process with these bytes as its standard input."""

    def call(data: bytes, *words: object) -> tuple[int, bytes, bytes]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        code = restore(*words)
        return code, *capfdbinary.readouterr()

    return call


def test_either_end_can_be_a_file(piped, copies, tmp_path):
    pixels = mixed.smooth(20, 30, 3, seed=6)
    data = encoded(pixels)
    words = ("--task", "denoise50", "--weights", copies)
    code, out, _ = piped(data, "-", *words)
    assert code == 0
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(out))), pixels)
    # The result does not name a file of this machine.
    assert b"/" not in Image.open(io.BytesIO(out)).text["ipt_jax"].encode()
    code, out, _ = piped(data, "-", *words, "-o", tmp_path / "x.png")
    assert code == 0 and b"1 restored into" in out
    code, out, _ = piped(data, "-", *words, "-o", tmp_path)
    assert code == 0 and (tmp_path / "stdin.png").is_file()
    assert (tmp_path / "stdin.png").read_bytes() == (tmp_path / "x.png").read_bytes()
    code, out, error = piped(b"no image", "-", *words)
    assert (code, out) == (1, b"") and b"standard input: not a JPEG, PNG" in error
    code, out, error = piped(b"", tmp_path / "x.png", *words, "-o", "-", "--format", "jpeg")
    assert code == 0 and Image.open(io.BytesIO(out)).format == "JPEG"
    assert str(tmp_path).encode() not in out


def test_what_cannot_go_through_a_pipe_is_refused(piped, copies, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encoded(mixed.smooth(9, 9, 3)))
    words = ("--task", "denoise50", "--weights", copies)
    for inputs, message in (
        ((tmp_path / "a.png", tmp_path / "b.png", "-o", "-"), b"-o - writes one result"),
        ((tmp_path, "-o", "-"), b"there are 2 results"),
        (("-", "-", "-o", tmp_path), b"named twice"),
        (("-", "--compare"), b"--compare needs a place"),
    ):
        code, out, error = piped(b"", *inputs, *words)
        assert (code, out) == (2, b"") and message in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize("form, suffix", [("jpeg", ".jpg"), ("bmp", ".bmp")])
@pytest.mark.parametrize("kind", ["RGBA", "LA"])
def test_a_background_takes_the_place_of_alpha(copies, tmp_path, form, suffix, kind, capsys):
    pixels = np.full((24, 32, len(kind)), 100, np.uint8)
    pixels[..., -1] = np.repeat([0, 128, 255, 255], 8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    words = ("--task", "denoise50", "--weights", copies, "--format", form, "--quality", 100)
    assert restore(tmp_path / "in.png", *words, "-o", tmp_path / "a") == 0
    assert "alpha (--background white blends it): left out" in capsys.readouterr().err
    for colour, rgb in (("white", (255, 255, 255)), ("#ff8000", (255, 128, 0))):
        place = tmp_path / colour
        assert restore(tmp_path / "in.png", *words, "-o", place, "--background", colour) == 0
        assert capsys.readouterr().err.count("alpha") == 0
        out = np.asarray(Image.open(place / f"in{suffix}").convert("RGB")).astype(int)
        for column, share in ((3, 0), (12, 128 / 255), (24, 1)):
            wanted = 100 * share + np.array(rgb) * (1 - share)
            assert np.abs(out[12, column] - wanted).max() <= 2
    # Formats with alpha keep it.
    kept = ("--task", "denoise50", "--weights", copies, "--background", "white")
    assert restore(tmp_path / "in.png", *kept, "-o", tmp_path / "kept.png") == 0
    assert np.asarray(Image.open(tmp_path / "kept.png"))[0, 0, -1] == 0
    assert restore(tmp_path / "in.png", *words, "-o", tmp_path / "b", "--background", "wite") == 2
    assert "--background wite: not a colour" in capsys.readouterr().err
