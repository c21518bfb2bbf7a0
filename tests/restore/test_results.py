"""Names of results: one rule for what is there already, and for results among the inputs."""

from __future__ import annotations

import os
import shutil
import subprocess

import mixed
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from restoring import digests, restore

from ipt_jax.images.origin import Origin
from ipt_jax.images.read import read_image, read_origin
from ipt_jax.images.write import FORMATS, fitted_name
from ipt_jax.restore.plan import Job
from ipt_jax.restore.results import candidates, place_results


@pytest.fixture
def photos(tmp_path):
    """A folder with three images."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.jpg", "more/c.webp")):
        Image.fromarray(mixed.smooth(20, 30, 3, seed=i)).save(folder / name)
    return folder


def names(folder) -> list[str]:
    return sorted(digests(folder))


@pytest.mark.parametrize("form", FORMATS)
def test_a_folder_restored_into_itself_is_the_same_after_three_runs(form, photos, copies, capsys):
    words = (photos, "--task", "denoise50", "--weights", copies, "-o", photos, "--format", form)
    suffix = FORMATS[form]
    assert restore(*words) == 0
    said = capsys.readouterr()
    first = digests(photos)
    assert "3 restored" in said.out
    taken = {".png": "a", ".jpg": "b"}.get(suffix)
    wanted = {
        f"{stem}_denoise50{suffix}" if stem == taken else f"{stem}{suffix}"
        for stem in ("a", "b", "more/c")
    }
    if suffix == ".webp":
        wanted = {"a.webp", "b.webp", "more/c_denoise50.webp"}
    assert wanted <= set(first)
    assert ("(an input), so the result of" in said.err) == (form in ("png", "jpeg", "webp"))
    for _ in range(2):
        assert restore(*words) == 0
        said = capsys.readouterr().out
        assert "0 restored" in said and "3 left alone" in said
        assert "3 results of earlier runs are not restored again" in said
        assert digests(photos) == first


def test_results_of_the_same_source_and_tasks_are_left_alone(photos, copies, tmp_path, capsys):
    words = (photos, "--weights", copies, "-o", tmp_path / "out")
    assert restore(*words, "--task", "denoise50") == 0
    first = digests(tmp_path / "out")
    (tmp_path / "out" / "b.png").unlink()
    capsys.readouterr()
    assert restore(*words, "--task", "denoise50") == 0
    said = capsys.readouterr().out
    assert "1 restored" in said and "2 left alone" in said and digests(tmp_path / "out") == first
    # Another task gets another name, and is known again.
    for _ in range(2):
        assert restore(*words, "--task", "sr2") == 0
        assert names(tmp_path / "out") == [
            "a.png",
            "a_sr2.png",
            "b.png",
            "b_sr2.png",
            "more/c.png",
            "more/c_sr2.png",
        ]
    assert "3 left alone" in capsys.readouterr().out
    assert restore(*words, "--task", "denoise50,sr2") == 0
    assert (tmp_path / "out" / "a_denoise50_sr2.png").is_file()
    # With --overwrite a result takes the place of its own former version.
    before = digests(tmp_path / "out")
    (tmp_path / "out" / "a_sr2.png").write_bytes(
        (tmp_path / "out" / "a_sr2.png").read_bytes() + b"x"
    )
    assert restore(*words, "--task", "sr2", "--overwrite") == 0
    assert digests(tmp_path / "out") == before


def test_results_stay_known_when_their_folder_moves(photos, copies, tmp_path, capsys):
    (tmp_path / "x").mkdir()
    shutil.move(photos, tmp_path / "x" / "photos")
    words = ("--task", "sr2", "--weights", copies, "-o")
    assert restore(tmp_path / "x" / "photos", *words, tmp_path / "x" / "out") == 0
    origin = read_origin(tmp_path / "x" / "out" / "more" / "c.png")
    assert origin.source == "../../photos/more/c.webp" and origin.tasks == ("sr2",)
    shutil.move(tmp_path / "x", tmp_path / "y")
    assert restore(tmp_path / "y" / "photos", *words, tmp_path / "y" / "out") == 0
    assert "3 left alone" in capsys.readouterr().out


def test_a_file_of_unknown_origin_is_not_replaced(photos, copies, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png").write_bytes(b"mine")
    (out / "b.png").mkdir()
    words = (photos, "--task", "sr2", "--weights", copies, "-o", out)
    for _ in range(2):
        assert restore(*words) == 0
        assert (out / "a.png").read_bytes() == b"mine"
        assert names(out) == ["a.png", "a_sr2.png", "b_sr2.png", "more/c.png"]
    said = capsys.readouterr()
    assert f"{out / 'a.png'} is there (a file of unknown origin), so the result of" in said.err
    assert f"is {out / 'a_sr2.png'}" in said.err and "3 left alone" in said.out
    (out / "a_sr2.png").write_bytes(b"mine, too")
    assert restore(*words) == 0 and (out / "a_sr2_2.png").is_file()


def test_a_result_that_is_older_than_its_source_is_named(photos, copies, tmp_path, capsys):
    words = ("--task", "denoise50", "--weights", copies, "-o", tmp_path / "out")
    assert restore(photos / "a.png", *words) == 0
    Image.fromarray(mixed.smooth(20, 30, 3, seed=9)).save(photos / "a.png")
    assert restore(photos / "a.png", *words) == 1
    assert "a.png (made before its source changed)" in capsys.readouterr().out
    assert restore(photos / "a.png", *words, "--overwrite") == 0
    np.testing.assert_array_equal(
        read_image(tmp_path / "out" / "a.png").pixels, mixed.smooth(20, 30, 3, seed=9)
    )


def test_a_named_result_is_not_renamed(photos, copies, tmp_path, capsys):
    words = ("--task", "denoise50", "--weights", copies, "-o", tmp_path / "x.png")
    assert restore(photos / "a.png", *words) == 0
    assert restore(photos / "a.png", *words) == 0
    assert restore(photos / "b.jpg", *words) == 1
    assert "x.png (a result of another source)" in capsys.readouterr().out
    assert names(tmp_path) == ["photos/a.png", "photos/b.jpg", "photos/more/c.webp", "x.png"]


def test_results_are_inputs_only_where_they_are_named(
    photos, copies, tmp_path, capsys, monkeypatch
):
    words = ("--weights", copies, "--task")
    assert restore(photos, *words, "denoise50", "-o", photos / "clean") == 0
    # Another output folder: what lies in photos/clean was made from photos.
    assert restore(photos, *words, "denoise50", "-o", tmp_path / "out") == 0
    assert names(tmp_path / "out") == ["a.png", "b.png", "more/c.png"]
    monkeypatch.chdir(photos)
    assert restore("clean/*.png", *words, "sr2", "-o", tmp_path / "big") == 0
    assert restore("clean/a.png", *words, "sr2", "-o", tmp_path / "bigger") == 0
    assert names(tmp_path / "big") == ["a.png", "b.png"]
    assert restore(photos / "clean", *words, "sr2", "-o", tmp_path / "all") == 0
    assert names(tmp_path / "all") == ["a.png", "b.png", "more/c.png"]
    # The output folder is the folder of the sources, which a glob matches.
    assert restore("*.*", *words, "denoise50", "-o", ".") == 0
    before = names(photos)
    assert restore("*.*", *words, "denoise50", "-o", ".") == 0
    assert names(photos) == before
    (photos / "a.png").unlink()
    (photos / "b.jpg").unlink()
    capsys.readouterr()
    assert restore("*.png", *words, "sr2", "-o", ".") == 2
    assert "results of earlier runs" in capsys.readouterr().err


def test_names_that_differ_only_in_case(copies, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(mixed.smooth(20, 30, 3, seed=1)).save(folder / "a.png")
    Image.fromarray(mixed.smooth(20, 30, 3, seed=2)).save(folder / "A.PNG")
    if len(list(folder.iterdir())) == 1:
        pytest.skip("this file system does not distinguish cases")
    words = (folder, "--task", "denoise50", "--weights", copies, "-o", tmp_path / "out")
    assert restore(*words) == 0
    results = names(tmp_path / "out")
    assert len({name.lower() for name in results}) == 2
    first = digests(tmp_path / "out")
    assert restore(*words) == 0 and digests(tmp_path / "out") == first
    assert "2 left alone" in capsys.readouterr().out
    sources = {read_origin(tmp_path / "out" / name).source for name in results}
    assert sources == {"../in/a.png", "../in/A.PNG"}


def test_long_names(copies, tmp_path, capsys):
    source = tmp_path / "in"
    source.mkdir()
    for length in (240, 250, 255):
        name = "ü" * 100 + "n" * (length - 204) + ".bmp"
        Image.fromarray(mixed.smooth(20, 30, 3, seed=1)).save(source / name)
    out = tmp_path / "out"
    for task in ("denoise50", "sr2", "sr2"):
        words = (source, "--task", task, "--weights", copies, "-o", out)
        assert restore(*words) == 0
    assert "3 left alone" in capsys.readouterr().out
    made = sorted(out.iterdir())
    assert len(made) == 6 and all(len(os.fsencode(path.name)) <= 255 for path in made)
    (one,) = source.glob("*" + "n" * 51 + ".bmp")
    alone = (one, "--task", "sr2", "--weights", copies, "-o", tmp_path / "alone", "--compare")
    assert restore(*alone, "--format", "tiff") == 0
    assert len(list((tmp_path / "alone").iterdir())) == 2


@settings(max_examples=50, deadline=None)
@given(
    stem=st.text("aé字😀", min_size=1, max_size=300), rest=st.sampled_from((".png", "_sr2_12.webp"))
)
def test_a_fitted_name_fits_and_differs_where_the_stems_differ(stem, rest):
    made = fitted_name(stem, rest)
    assert made.endswith(rest) and len(os.fsencode(made)) <= 255
    if len(os.fsencode(stem + rest)) <= 255:
        assert made == stem + rest
    else:
        assert made != fitted_name(stem + "x", rest)


@settings(max_examples=60, deadline=None)
@given(
    there=st.lists(st.sampled_from(("unknown", "same", "other task", "other source")), max_size=4),
    overwrite=st.booleans(),
)
def test_no_state_of_a_folder_loses_a_file(tmp_path_factory, there, overwrite):
    folder = tmp_path_factory.mktemp("folder")
    source = folder / "in.png"
    Image.fromarray(mixed.smooth(5, 6, 3)).save(source)
    job = Job(source, folder / "out.png", "png")
    digest = place_results([job], ["sr2"], overwrite=False, fixed=False).todo[0].origin.sha256
    origins = {
        "same": Origin("in.png", digest, ("sr2",)),
        "other task": Origin("in.png", digest, ("denoise50",)),
        "other source": Origin("else.png", "0" * 64, ("sr2",)),
    }
    chosen = []
    for out, what in zip(candidates(job.out, ["sr2"]), there):
        info = origins.get(what)
        text = PngInfo()
        if info:
            text.add_text("ipt_jax", info.text())
        Image.fromarray(mixed.smooth(5, 6, 3)).save(out, pnginfo=text)
        chosen.append(out)
    placed = place_results([job], ["sr2"], overwrite=overwrite, fixed=False)
    assert placed.blocked == [] and len(placed.todo) + len(placed.done) == 1
    if "same" in there:
        own = chosen[there.index("same")]
        assert [j.out for j in (placed.todo if overwrite else placed.done)] == [own]
    elif overwrite:
        assert placed.todo[0].out == job.out
    else:
        assert not placed.todo[0].out.exists()
        assert (placed.notes != []) == bool(set(there) - {"other task"})


def test_a_damaged_jpeg_is_restored_and_named(copies, tmp_path, capsys):
    Image.fromarray(mixed.smooth(64, 64, 3)).save(tmp_path / "in.jpg", quality=95)
    data = (tmp_path / "in.jpg").read_bytes()
    # Bytes between the last block and the end.
    (tmp_path / "in.jpg").write_bytes(data[:-2] + b"\x12" * 50 + data[-2:])
    words = ("--task", "denoise50", "--weights", copies, "-o", tmp_path / "out.png")
    assert restore(tmp_path / "in.jpg", *words) == 0
    said = capsys.readouterr().err
    assert "in.jpg: the file is damaged (Corrupt JPEG data: 44 extraneous" in said


@pytest.mark.parametrize("form", ["png", "webp"])
def test_an_animation_is_known_as_a_result(form, copies, tmp_path, capsys):
    frames = [Image.fromarray(mixed.smooth(20, 24, 3, seed=i)) for i in range(3)]
    frames[0].save(tmp_path / "in.gif", save_all=True, append_images=frames[1:])
    words = ("--task", "sr2", "--weights", copies, "-o", tmp_path, "--format", form)
    for _ in range(2):
        assert restore(tmp_path, *words) == 0
    assert "1 left alone" in capsys.readouterr().out
    assert names(tmp_path) == ["in.gif", f"in.{form}"]
    with Image.open(tmp_path / f"in.{form}") as image:
        assert image.n_frames == 3 and image.size == (48, 40)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")
def test_a_video_is_known_as_a_result(copies, tmp_path, capsys):
    source = tmp_path / ("v" * 251 + ".mp4")
    clip = ["-f", "lavfi", "-i", "testsrc=size=48x32:rate=5:duration=0.6", "-pix_fmt", "yuv420p"]
    subprocess.run(["ffmpeg", "-v", "error", *clip, str(source)], check=True, timeout=60)
    words = (source, "--weights", copies, "-o", tmp_path / "out", "--task")
    assert restore(*words, "denoise50") == 0
    assert restore(*words, "denoise50") == 0
    assert "1 left alone" in capsys.readouterr().out
    assert restore(*words, "sr2") == 0
    videos = sorted((tmp_path / "out").glob("*.mp4"))
    assert len(videos) == 2 and [read_origin(path).tasks for path in videos] in (
        [("denoise50",), ("sr2",)],
        [("sr2",), ("denoise50",)],
    )
