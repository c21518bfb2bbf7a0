"""`ipt restore`: what a folder holds beside images that can be read is named."""

from __future__ import annotations

import io
import pathlib

import numpy as np
import pytest
import runs
from PIL import Image

import ipt_jax
from ipt_jax.cli import restore as commands_restore
from ipt_jax.cli.app import main
from ipt_jax.images.formats import AVIF
from tests.weights.test_load import Copies


@pytest.fixture(scope="module")
def copies(tmp_path_factory) -> Copies:
    """A network that copies its input."""
    folder = tmp_path_factory.mktemp("weights") / "run"
    runs.make_run(folder, tasks=("denoise50",))
    loaded = ipt_jax.load(str(folder))
    return Copies(loaded.model, loaded.params, loaded.tasks, {})


def encoded(kind: str, **settings: int) -> bytes:
    stream = io.BytesIO()
    image = np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)
    Image.fromarray(image).save(stream, kind, **settings)
    return stream.getvalue()


def test_other_formats_and_links_to_nothing_are_named(
    copies, tmp_path, monkeypatch, capsys, caplog
):
    monkeypatch.setattr(commands_restore, "load_weights", lambda *_, **__: copies)
    source, out = tmp_path / "in", tmp_path / "in" / "out"
    source.mkdir()
    (source / "a.png").write_bytes(encoded("png"))
    (source / "b.jfif").write_bytes(encoded("jpeg"))
    if AVIF:
        (source / "c.avif").write_bytes(encoded("avif"))
    (source / "d.png").symlink_to(source / "gone.png")
    for name in ("e.heic", "f.CR2", "g"):
        (source / name).write_bytes(b"x")
    words = ["restore", str(source), "--task", "denoise50", "--weights", "x", "-o", str(out)]
    code = main([*words, "--overlap", "4", "--batch", "2"])
    printed = capsys.readouterr()
    assert code == 1 and "d.png: a link to a file that does not exist" in printed.err + printed.out
    assert {path.stem for path in pathlib.Path(out).glob("*.png")} == {
        "a",
        "b",
        *(["c"] if AVIF else []),
    }
    assert (
        "3 files of other formats are left out: 1 without suffix (g), 1 .cr2 (f.CR2), 1 .heic "
        "(e.heic); HEIC is not read: convert it" in printed.err + printed.out + caplog.text
    )
