"""`ipt_jax.load`, and the Restorer that it returns."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import runs
from PIL import Image

import ipt_jax
from ipt_jax.errors import WeightsError
from ipt_jax.images.resize import bicubic_up
from ipt_jax.restore.restorer import Restorer

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("weights") / "run"
    runs.make_run(folder, steps=(10, 20))
    return folder


@pytest.fixture(scope="module")
def restorer(folder) -> Restorer:
    return ipt_jax.load(str(folder))


def test_importing_the_package_imports_neither_jax_nor_torch():
    code = (
        "import sys, ipt_jax; ipt_jax.load; "
        "print([m for m in ('jax', 'numpy', 'torch') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    assert out.strip() == "[]"


def test_a_run_gives_its_newest_checkpoint_and_the_average_of_its_weights(folder, restorer):
    assert list(restorer.tasks) == ["sr2", "denoise50"]
    newest = runs.random_params(restorer.model, 20)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b * np.float32(0.5)), restorer.params, newest
    )
    assert restorer.provenance["step"] == 20 and restorer.provenance["part"] == "ema"


def test_a_step_and_the_weights_themselves_can_be_asked_for(folder):
    older = ipt_jax.load(f"{folder}@10", raw=True)
    jax.tree.map(np.testing.assert_array_equal, older.params, runs.random_params(older.model, 10))
    assert older.provenance["step"] == 10 and older.provenance["part"] == "params"


def test_a_run_without_an_average_gives_its_weights(tmp_path):
    runs.make_run(tmp_path / "run@home", steps=(3,), ema=0.0)
    loaded = ipt_jax.load(str(tmp_path / "run@home"))
    assert loaded.provenance["part"] == "params"


def test_some_of_the_tasks(folder, restorer):
    one = ipt_jax.load(str(folder), task="denoise50")
    assert list(one.tasks) == ["denoise50"] and set(one.params) == {"body", "task_denoise50"}
    patches = RNG.integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
    np.testing.assert_allclose(
        one.apply(patches), restorer.apply(patches, "denoise50"), rtol=0, atol=1e-3
    )
    with pytest.raises(WeightsError, match=r"no task 'denoise5' \(did you mean 'denoise50'\?\)"):
        ipt_jax.load(str(folder), task="denoise5")


def test_apply_is_the_network_on_tiles_of_any_number(restorer):
    patches = RNG.integers(0, 256, (140, 16, 16, 3)).astype(np.float32)
    expected = jax.jit(restorer.model.apply)({"params": restorer.params}, {"sr2": patches})[0][
        "sr2"
    ]
    # 140 tiles are more than one call takes.
    for count in (1, 140):
        out = restorer.apply(patches[:count], task="sr2")
        assert out.shape == (count, 32, 32, 3) and out.dtype == np.float32
        np.testing.assert_allclose(
            out, expected[:count], rtol=0, atol=1e-5 * np.abs(expected).max()
        )
    # The result is not clipped.
    assert out.min() < 0 or out.max() > 255


@pytest.mark.parametrize("shape", [(16, 16, 3), (1, 16, 15, 3), (0, 16, 16, 3), (1, 16, 16, 4)])
def test_apply_refuses_other_shapes(restorer, shape):
    with pytest.raises(ValueError, match=r"\[B, 16, 16, 3\]"):
        restorer.apply(np.zeros(shape, np.float32), task="sr2")


@pytest.mark.parametrize("task, scale", [("sr2", 2), ("denoise50", 1)])
def test_restore_takes_any_size_with_one_program(restorer, task, scale):
    programs = set()
    for size in [(1, 1), (5, 40), (16, 16), (33, 41)]:
        image = RNG.integers(0, 256, (*size, 3)).astype(np.uint8)
        out = restorer.restore(image, task=task, overlap=4)
        assert out.shape == (size[0] * scale, size[1] * scale, 3) and out.dtype == np.uint8
        programs.add(restorer.programs())
    assert len(programs) == 1


class Copies(Restorer):
    """A network that copies its input, enlarged for sr2, which shows what is done around it."""

    def bind(self, task):
        scale = self.task(task).scale
        return lambda tiles: tiles.repeat(scale, 1).repeat(scale, 2)


@pytest.fixture
def copies(restorer) -> Copies:
    return Copies(restorer.model, restorer.params, restorer.tasks, {})


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_channels_and_dtype_come_back_as_they_went_in(copies, dtype, channels):
    top = {"uint8": 255, "uint16": 65535, "float32": 255}[dtype]
    # Colours under an alpha of 0 do not come back: they are filled.
    image = RNG.integers(1, top + 1, (21, 35, *channels)).astype(dtype)
    out = copies.restore(image, "denoise50", overlap=4)
    assert out.dtype == image.dtype
    np.testing.assert_allclose(out, image, rtol=0, atol=0 if dtype != "float32" else 1e-3)
    big = copies.restore(image, "sr2", overlap=4)
    assert big.shape == (42, 70, *channels) and big.dtype == image.dtype
    colour = slice(0, 3)
    if channels:
        np.testing.assert_allclose(big[::2, ::2, colour], image[..., colour], rtol=0, atol=1e-3)


def test_alpha_is_enlarged_as_bicubic(copies):
    # With these values nothing is clipped, so 16 bits are as accurate as 8.
    image = RNG.integers(64, 192, (20, 24, 4)).astype(np.uint8)
    np.testing.assert_array_equal(
        copies.restore(image, "sr2", overlap=4)[..., 3], bicubic_up(image[..., 3], 2)
    )
    deep = image.astype(np.uint16) * 257
    assert (
        np.abs(
            copies.restore(deep, "sr2", overlap=4)[..., 3] - bicubic_up(image[..., 3], 2) * 257.0
        ).max()
        < 1.2 * 257
    )


def test_pillow_pictures_lists_batches_and_one_task_after_another(copies):
    rgb, grey = (
        RNG.integers(0, 256, (20, 31, 3)).astype(np.uint8),
        RNG.integers(0, 256, (9, 40)).astype(np.uint8),
    )
    out = copies.restore([Image.fromarray(rgb), grey], "denoise50,sr2", overlap=4)
    assert isinstance(out[0], Image.Image) and out[0].mode == "RGB" and out[0].size == (62, 40)
    np.testing.assert_array_equal(np.asarray(out[0])[::2, ::2], rgb)
    np.testing.assert_array_equal(out[1][::2, ::2], grey)
    batch = np.stack([rgb, rgb[::-1]])
    np.testing.assert_array_equal(copies.restore(batch, ["denoise50"], overlap=4), batch)
    palette = copies.restore(Image.fromarray(rgb).quantize(8), "denoise50", overlap=4)
    assert palette.mode == "RGB"
    with pytest.raises(ValueError, match="no known range"):
        copies.restore(Image.fromarray(rgb[..., 0].astype(np.float32)), "denoise50")


def test_float_is_neither_clipped_nor_rounded(copies):
    image = np.linspace(-40, 300, 16 * 16 * 3, dtype=np.float32).reshape(16, 16, 3)
    np.testing.assert_allclose(copies.restore(image, "denoise50"), image, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((5, 5, 5), np.uint8),
        np.zeros((5, 5, 3), np.int64),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((1, 1, 5, 5, 3), np.uint8),
    ],
)
def test_restore_refuses_what_is_no_picture(copies, image):
    with pytest.raises(ValueError, match="an image must be"):
        copies.restore(image, "denoise50")


def test_a_task_must_be_named_where_there_are_several(restorer):
    with pytest.raises(ValueError, match="name a task of this model: sr2, denoise50"):
        restorer.restore(np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match=r"no task 'sr4'.*sr2"):
        restorer.restore(np.zeros((16, 16, 3), np.uint8), task="sr4")


def test_wrong_paths_say_what_is_there(folder, tmp_path):
    with pytest.raises(WeightsError, match="there is no"):
        ipt_jax.load(str(tmp_path / "nothing"))
    with pytest.raises(WeightsError, match="no such checkpoint; there are 10, 20"):
        ipt_jax.load(f"{folder}@15")
    with pytest.raises(WeightsError, match="no such checkpoint"):
        ipt_jax.load(f"{folder}@newest")
    (tmp_path / "photo.png").write_bytes(b"x")
    with pytest.raises(
        WeightsError, match=r"neither a run's folder.*nor a weights folder.*photo\.png"
    ):
        ipt_jax.load(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"config": {"tasks": ["sr2"]}}))
    with pytest.raises(WeightsError, match="not a run's config"):
        ipt_jax.load(str(tmp_path))
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(WeightsError, match="there is no checkpoint in"):
        ipt_jax.load(str(tmp_path))


def test_weights_of_another_model_are_listed(folder, tmp_path):
    other = tmp_path / "run"
    runs.make_run(other, steps=(1,))
    meta = json.loads((other / "config.json").read_text())
    meta["config"]["model"]["hidden"] = 40
    meta["config"]["tasks"] = ["sr2", "denoise30"]
    (other / "config.json").write_text(json.dumps(meta))
    with pytest.raises(WeightsError) as caught:
        ipt_jax.load(str(other))
    text = str(caught.value)
    assert (
        "task_denoise30.embedding: missing" in text
        and "task_denoise50.embedding: unexpected" in text
    )
    assert "body.encoder.feed_forward.in.kernel: [2, 64, 32], not [2, 64, 40]" in text


class Overshoots(Copies):
    """A network that doubles values for denoise50 and halves them for sr2."""

    def bind(self, task):
        copy = super().bind(task)
        return lambda tiles: copy(tiles) * (2.0 if task == "denoise50" else 0.5)


@pytest.mark.parametrize("how", ["whole", "strips"])
def test_values_are_clipped_between_two_tasks(restorer, how):
    """200 becomes 400, then 255 as in a file, then 127.5; unclipped it would be 200 again."""
    made = Overshoots(restorer.model, restorer.params, restorer.tasks, {})
    image = np.full((20, 30, 3), 200, np.float32)
    tasks = ["denoise50", "sr2"]
    if how == "whole":
        out = made.restore(image, tasks, overlap=4)
    else:
        rows = made.restore_strips(lambda a, b: image[a:b], 20, 30, tasks, overlap=4)
        out = np.concatenate(list(rows))
    assert out.shape == (40, 60, 3)
    np.testing.assert_allclose(out, 127.5, atol=1e-3)
