"""Transparent cut-outs: the colour that a file stores under transparency never becomes visible."""

from __future__ import annotations

import runpy

import numpy as np
import places
import pytest
from PIL import Image
from restoring import restore

import ipt_jax
from ipt_jax.cli.app import main
from ipt_jax.images import channels
from ipt_jax.images.read import read_image
from ipt_jax.serve import uploads
from ipt_jax.weights import default as defaults

SHIPPED = defaults.SHIPPED / "ipt_small"


@pytest.fixture(scope="module")
def model(weights):
    return ipt_jax.load(weights)


def cut_out(kind: str = "RGBA", height: int = 60, width: int = 77) -> np.ndarray:
    """Returns an ellipse of level 240 with a hole; the rest is transparent and stores 0."""
    y, x = np.mgrid[:height, :width]
    inside = ((y / height - 0.5) / 0.45) ** 2 + ((x / width - 0.5) / 0.46) ** 2 < 1
    inside &= ~((abs(y - height // 2) < 5) & (abs(x - width // 3) < 5))
    image = np.full((height, width, len(kind)), 240, np.uint8)
    image[~inside] = 0
    image[..., -1] = np.where(inside, 255, 0)
    return image


def opaque(image: np.ndarray) -> np.ndarray:
    """Returns the same image without transparency: 240 everywhere."""
    return np.full_like(image[..., :-1], 240)


def visible_pixels_off(out: np.ndarray, wanted: np.ndarray) -> int:
    """Returns the number of visible pixels whose colours are not those of the opaque image."""
    off = (out[..., :-1] != wanted.reshape(*out.shape[:2], -1)).any(axis=2)
    return int((off & (out[..., -1] > 0)).sum())


@pytest.mark.parametrize("task", ["denoise50", "sr2"])
@pytest.mark.parametrize("kind", ["RGBA", "LA"])
def test_a_cut_out_has_no_fringe_in_memory_in_a_file_and_on_the_page(
    model, weights, task, kind, tmp_path
):
    image = cut_out(kind)
    settings = dict(overlap=4, batch=2)
    wanted = model.restore(opaque(image), task, **settings)
    out = model.restore(image, task, **settings)
    assert visible_pixels_off(out, wanted) == 0
    Image.fromarray(image).save(tmp_path / "in.png")
    words = ("--task", task, "--weights", weights, "-o", tmp_path / "out.png")
    assert restore(tmp_path / "in.png", *words) == 0
    assert visible_pixels_off(read_image(tmp_path / "out.png").pixels, wanted) == 0
    as_image = model.restore(Image.fromarray(image), task, **settings)
    np.testing.assert_array_equal(np.asarray(as_image), out)
    (before, _), after, _ = uploads.restore_upload(
        model, tmp_path / "in.png", task, tmp_path, 10**6
    )
    on_page = read_image(after).pixels
    assert visible_pixels_off(on_page, model.restore(opaque(image), task)) == 0
    assert (np.asarray(Image.open(before)) == 240).all()


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_a_chain_of_tasks_and_other_dtypes_have_no_fringe(model, dtype):
    image = cut_out().astype(dtype)
    wanted = model.restore(opaque(image), "denoise50,sr2", overlap=4, batch=2)
    out = model.restore(image, "denoise50,sr2", overlap=4, batch=2)
    # What is far from the cut-out differs between the tasks, and is invisible.
    assert visible_pixels_off(out, wanted) == 0


def test_without_the_filling_there_is_a_fringe(model, monkeypatch):
    monkeypatch.setattr(channels, "fill_transparent", lambda image, reach: image)
    image = cut_out()
    wanted = model.restore(opaque(image), "denoise50", overlap=4, batch=2)
    out = model.restore(image, "denoise50", overlap=4, batch=2)
    assert visible_pixels_off(out, wanted) > 300


@pytest.mark.slow
def test_the_shipped_weights_draw_no_fringe_round_a_cut_out():
    """Without the filling, 667 of 30,760 visible pixels were off by 10 to 60 levels."""
    image = cut_out(height=190, width=250)
    model = ipt_jax.load(str(SHIPPED))
    assert (image[..., 3] > 0).sum() > 29_000
    out = model.restore(image, "sr2")
    assert visible_pixels_off(out, model.restore(opaque(image), "sr2")) == 0
    seen = out[..., 3] > 0
    assert np.abs(out[seen][:, :3].astype(int) - 240).max() < 10


@pytest.mark.parametrize("how", ["palette", "colour key", "GIF"])
def test_transparency_without_an_alpha_channel_is_filled_too(how, copies, tmp_path):
    image = Image.fromarray(cut_out())
    path = tmp_path / ("in.gif" if how == "GIF" else "in.png")
    if how == "colour key":
        image.convert("RGB").save(path, transparency=(0, 0, 0))
    elif how == "GIF":
        image.save(path)
    else:
        image.quantize(8).save(path)
    words = ("--task", "denoise50", "--weights", copies, "-o", tmp_path / "out.png")
    assert restore(path, *words) == 0
    out = read_image(tmp_path / "out.png").pixels
    assert out.shape[2] == 4 and (out[..., 3] == 0).any()
    # The copying network shows what it was given.
    assert np.abs(out[..., :3].astype(int) - 240).max() <= 1


def test_the_nearest_visible_colour_is_taken_and_visible_pixels_stay():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (90, 70, 4)).astype(np.uint8)
    image[..., 3] = np.where(rng.random((90, 70)) < 0.02, 1, 0)
    seen = np.argwhere(image[..., 3] > 0)
    filled = channels.fill_transparent(image, 48)
    np.testing.assert_array_equal(filled[..., 3], image[..., 3])
    np.testing.assert_array_equal(filled[image[..., 3] > 0], image[image[..., 3] > 0])
    for y, x in np.argwhere(image[..., 3] == 0)[::37]:
        distances = np.hypot(*(seen - (y, x)).T)
        # OpenCV's distances are right to a few per cent.
        near = seen[distances <= distances.min() * 1.05 + 0.1]
        colours = {tuple(image[tuple(place)][:3]) for place in near}
        assert tuple(filled[y, x, :3]) in colours


def test_blocks_of_rows_give_what_the_complete_image_gives_near_visible_pixels():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (400, 60, 4)).astype(np.uint8)
    image[..., 3] = np.where(rng.random((400, 60)) < 0.01, 255, 0)
    image[150:300, :, 3] = 0
    blocks = channels.fill_transparent(image, 16)
    complete = channels.fill_transparent(image, 400)
    rows = np.flatnonzero((image[..., 3] > 0).any(axis=1))
    near = [y for y in range(400) if np.abs(rows - y).min() <= 8]
    same = (blocks[near] == complete[near]).all(axis=2)
    assert same.mean() > 0.99
    # Far from anything visible, pixels may stay.
    np.testing.assert_array_equal(blocks[225], image[225])


def test_opaque_and_invisible_images_are_returned_as_they_are():
    for image in (
        cut_out()[..., :3],
        np.full((9, 9, 4), 255, np.uint8),
        np.zeros((9, 9, 4), np.uint8),
        np.zeros((9, 9), np.uint8),
    ):
        assert channels.fill_transparent(image, 48) is image


@pytest.mark.slow
@pytest.mark.parametrize("task", ["denoise50", "sr2"])
@pytest.mark.parametrize("kind", ["RGBA", "LA"])
def test_the_onnx_example_draws_no_fringe(weights, task, kind, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    words = ["--weights", weights, "--format", "onnx", "--task", task]
    assert main(["export", *words, "--out", str(tmp_path / "x.onnx")]) == 0
    example = runpy.run_path(str(places.ROOT / "examples" / "restore_onnx.py"))
    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"))
    out = example["restore_channels"](session, cut_out(kind), 4)
    wanted = example["restore_channels"](session, opaque(cut_out(kind)), 4)
    assert visible_pixels_off(out, wanted) == 0
