"""`ipt restore` of animated GIF, WebP and PNG: all frames, their times and the number of plays."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import small
from PIL import Image, ImageSequence

from ipt_jax.cli import restore as cli_restore
from ipt_jax.cli.app import main
from ipt_jax.images.read import read_image
from ipt_jax.images.write import Form
from ipt_jax.restore import animation
from ipt_jax.tasks import make_tasks
from tests.weights.test_load import Copies

DURATIONS = [40, 100, 250, 40, 1000]


@pytest.fixture(autouse=True)
def copies(monkeypatch) -> None:
    """Makes `ipt restore` use a network that copies its input, enlarged for sr2."""
    names = ("sr2", "denoise50")
    tasks = {task.name: task for task in make_tasks(names)}
    made = Copies(small.model(small.config(tasks=names)), {}, tasks, {})
    monkeypatch.setattr(cli_restore, "load_weights", lambda *_, **__: made)


def restore(source: Path, out: Path, *more: str, task: str = "denoise50") -> int:
    words = ["restore", str(source), "-o", str(out), "--task", task, "--weights", "copies"]
    return main([*words, "--overlap", "4", *more])


def pictures(alpha: bool = False, grey: bool = False) -> list[Image.Image]:
    """Returns five frames, 34 x 26, of few colours, in which a square moves.

    The third is repeated; Pillow stores the two as one frame with the sum of their durations.
    """
    frames = []
    for x in (2, 8, 14, 14, 20):
        frame = np.zeros((26, 34, 4), np.uint8)
        frame[...] = (40, 40, 40, 255) if grey else (29, 189, 27, 255)
        frame[4:12, x : x + 8] = (200, 200, 200, 255) if grey else (220, 30, 90, 255)
        if alpha:
            frame[18:] = (0, 0, 0, 0)
        frames.append(Image.fromarray(frame).convert("RGBA" if alpha else "L" if grey else "RGB"))
    return frames


def save(path: Path, frames: list[Image.Image], **more: object) -> None:
    lossless = {"lossless": True, "exact": True} if path.suffix == ".webp" else {}
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=DURATIONS, **lossless, **more
    )


def shown(path: Path) -> tuple[list[np.ndarray], list[float], int | None]:
    """Returns the frames as RGBA, their durations and the count of loops, as Pillow reads them."""
    with Image.open(path) as image:
        frames = [
            (np.asarray(frame.convert("RGBA")), frame.info.get("duration"))
            for frame in ImageSequence.Iterator(image)
        ]
        return [frame for frame, _ in frames], [time for _, time in frames], image.info.get("loop")


def timeline(path: Path) -> dict[float, np.ndarray]:
    """Returns what is shown from each time on; equal frames in sequence count as one."""
    frames, durations, _ = shown(path)
    changes, now = {}, 0.0
    for i, (frame, duration) in enumerate(zip(frames, durations, strict=True)):
        if not i or not np.array_equal(frame, frames[i - 1]):
            changes[now] = frame
        now += duration
    return changes | {now: np.zeros(0)}


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("target", [".png", ".webp"])
@pytest.mark.parametrize("source", [".gif", ".webp", ".png"])
def test_all_frames_and_their_times_are_kept(tmp_path, source, target, alpha):
    save(tmp_path / f"in{source}", pictures(alpha), loop=0)
    assert restore(tmp_path / f"in{source}", tmp_path / f"out{target}", "--quality", "100") == 0
    before, after = (timeline(tmp_path / f"{name}") for name in (f"in{source}", f"out{target}"))
    assert list(before) == list(after) and list(before) == [0, 40, 140, 430, 1430]
    for time, frame in before.items():
        visible = frame[..., 3:] > 0 if frame.ndim == 3 else 1
        np.testing.assert_array_equal(frame * visible, after[time] * visible)


def test_super_resolution_of_an_animation_keeps_grey_and_frames(tmp_path):
    save(tmp_path / "in.png", pictures(grey=True))
    assert restore(tmp_path / "in.png", tmp_path / "out.png", task="denoise50,sr2") == 0
    frames, _, _ = shown(tmp_path / "out.png")
    assert len(frames) == len(shown(tmp_path / "in.png")[0])
    for before, after in zip(shown(tmp_path / "in.png")[0], frames, strict=True):
        np.testing.assert_array_equal(after[::2, ::2], before)
    assert read_image(tmp_path / "out.png").pixels.shape == (52, 68, 1)


@pytest.mark.parametrize(
    "source, loop, plays",
    # A GIF counts repetitions after the first play, and is played once without a count.
    [(".gif", 0, 0), (".gif", 2, 3), (".gif", None, 1), (".webp", 4, 4), (".png", 5, 5)],
)
def test_the_number_of_plays_is_kept(tmp_path, source, loop, plays):
    save(tmp_path / f"in{source}", pictures(), **({} if loop is None else {"loop": loop}))
    for target in ("out.png", "out.webp"):
        assert restore(tmp_path / f"in{source}", tmp_path / target) == 0
        assert shown(tmp_path / target)[2] == plays


def test_profile_exif_and_orientation_of_an_animation(tmp_path):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "A maker", 6
    save(tmp_path / "in.png", pictures(), exif=exif)
    for target in ("out.png", "out.webp"):
        assert restore(tmp_path / "in.png", tmp_path / target, "--quality", "100") == 0
        with Image.open(tmp_path / target) as image:
            assert image.size == (26, 34)
            assert image.getexif()[0x010F] == "A maker" and image.getexif().get(0x0112, 1) == 1
        before, after = (shown(tmp_path / name)[0] for name in ("in.png", target))
        np.testing.assert_array_equal(after[1], np.rot90(before[1], -1))


@pytest.mark.parametrize("form", ["jpeg", "bmp", "tiff"])
def test_other_formats_get_the_first_frame_and_it_is_said(tmp_path, capsys, form):
    save(tmp_path / "in.gif", pictures())
    assert restore(tmp_path / "in.gif", tmp_path / "o", "--format", form, "--quality", "100") == 0
    said = capsys.readouterr().err
    assert "the first of 4 frames" in said and f"{form} cannot hold an animation" in said
    (out,) = (tmp_path / "o").glob("in.*")
    with Image.open(out) as image:
        assert getattr(image, "n_frames", 1) == 1
        first = np.asarray(image.convert("RGB")).astype(int)
    before = shown(tmp_path / "in.gif")[0][0][..., :3]
    assert np.abs(first - before).max() <= (40 if form == "jpeg" else 0)


def test_an_image_that_is_no_frame_of_its_animation_is_left_out(tmp_path):
    frames = pictures()
    frames[0].save(
        tmp_path / "in.png",
        save_all=True,
        default_image=True,
        append_images=frames[1:],
        duration=[40, 50, 60, 70],
    )
    assert restore(tmp_path / "in.png", tmp_path / "out.png") == 0
    before, after = shown(tmp_path / "in.png")[0], shown(tmp_path / "out.png")[0]
    assert len(after) == len(before) - 1 == animation.count_frames(tmp_path / "in.png")
    np.testing.assert_array_equal(after, before[1:])


def test_sixteen_bits_get_the_first_frame_and_it_is_said(tmp_path, capsys):
    frames = np.random.default_rng(0).integers(0, 65536, (3, 26, 34, 3)).astype(np.uint16)
    moving = animation.Animation(tmp_path, 0, [animation.Fraction(40)] * 3, 0, 1, False, False)
    form = Form("png", 26, 34, 3, depth=16)
    animation.write_animation(tmp_path / "in.png", form, moving, iter(frames))
    assert len(shown(tmp_path / "in.png")[0]) == 3
    assert restore(tmp_path / "in.png", tmp_path / "out.png") == 0
    assert "the first of 3 frames" in capsys.readouterr().err
    out = read_image(tmp_path / "out.png")
    np.testing.assert_array_equal(out.pixels, frames[0])


def test_a_damaged_frame_is_a_failure(tmp_path, capsys):
    save(tmp_path / "in.gif", pictures())
    data = (tmp_path / "in.gif").read_bytes()
    (tmp_path / "in.gif").write_bytes(data[: len(data) - 30])
    assert restore(tmp_path / "in.gif", tmp_path / "out.png") == 1
    assert "cannot decode" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in.gif"]


def test_an_animated_png_is_well_formed(tmp_path):
    save(tmp_path / "in.gif", pictures())
    assert restore(tmp_path / "in.gif", tmp_path / "out.png", "--compare") == 0
    assert (tmp_path / "out_compare.png").exists()
    chunks = list(animation._chunks((tmp_path / "out.png").read_bytes()))
    kinds = [kind for kind, _ in chunks]
    assert kinds[0] == b"IHDR" and kinds[-1] == b"IEND"
    assert kinds.index(b"acTL") < kinds.index(b"fcTL") < kinds.index(b"IDAT")
    sequence = [struct.unpack(">I", body[:4])[0] for kind, body in chunks if kind[:1] == b"f"]
    assert sequence == list(range(len(sequence)))
    assert struct.unpack(">II", dict(chunks)[b"acTL"]) == (4, 1)


@pytest.mark.parametrize("milliseconds", [0, 1, 33, 40, 1000, 70_001, 6_000_000, 10**9])
def test_delays_fit_into_sixteen_bits(milliseconds):
    top, bottom = animation._delay(animation.Fraction(milliseconds))
    assert 0 <= top <= 65535 and 0 < bottom <= 65535
    exact = min(milliseconds / 1000, 65535)
    assert top / bottom == pytest.approx(exact, rel=2e-5)
