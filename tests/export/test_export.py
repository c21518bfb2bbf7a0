"""Exports compute what the model computes, without this package and in other processes."""

from __future__ import annotations

import json
import pathlib
import runpy
import subprocess
import sys

import jax
import mixed
import numpy as np
import places
import pytest
import runs
from PIL import Image

import ipt_jax
from ipt_jax.checkpoints import checkpoints as checkpoint
from ipt_jax.cli.app import main
from ipt_jax.errors import ExportError, WeightsError
from ipt_jax.export import model_card as card
from ipt_jax.export import parity as check
from ipt_jax.export.export import export_weights
from ipt_jax.images.read import read_image

EXAMPLE = places.ROOT / "examples" / "restore_onnx.py"
LOADER = """
import json, pathlib, sys
import jax, numpy as np
said = json.loads(pathlib.Path(sys.argv[1] + ".json").read_text())
program = jax.export.deserialize(bytearray(pathlib.Path(sys.argv[1]).read_bytes()))
tile = said["tile"]
assert program.platforms == tuple(said["platforms"]) == ("cpu", "cuda", "tpu")
for count in (1, 5):
    patches = np.load(sys.argv[2])[:count]
    out = np.asarray(program.call(patches))
    side = tile * said["scale"]
    assert out.shape == (count, side, side, 3) and out.dtype == np.float32
np.save(sys.argv[3], out)
assert not [name for name in sys.modules if name.startswith(("ipt_jax", "flax"))]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("weights") / "run"
    runs.make_run(folder, tasks=("sr2", "sr3", "sr4", "denoise50"))
    lines = [
        {"step": 20, "held_out/sr2/psnr_y": 31.5, "held_out/denoise50/psnr_y": 27.0},
        {"step": 30, "held_out/sr2/psnr_y": 9.0},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def model(run):
    return ipt_jax.load(str(run))


def near(have: np.ndarray, want: np.ndarray, bound: float = 1e-5) -> bool:
    return have.shape == want.shape and np.abs(have - want).max() <= bound * np.abs(want).max()


def test_stablehlo_in_a_fresh_process_that_has_only_jax(run, model, tmp_path, capsys):
    out = tmp_path / "sr3.stablehlo"
    assert (
        main(
            [
                "export",
                "--weights",
                str(run),
                "--format",
                "stablehlo",
                "--task",
                "sr3",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    assert "largest difference from the model on random patches" in capsys.readouterr().out
    given = check.random_patches(16, 5, seed=7)
    np.save(tmp_path / "in.npy", given)
    words = [
        sys.executable,
        "-c",
        LOADER,
        str(out),
        str(tmp_path / "in.npy"),
        str(tmp_path / "out.npy"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert near(np.load(tmp_path / "out.npy"), model.apply(given, "sr3"))
    said = json.loads((tmp_path / "sr3.stablehlo.json").read_text())
    assert (
        said["task"] == "sr3"
        and said["versions"]["jax"] == jax.__version__
        and said["model"]["input_scale"] == 127.5
    )


def test_npz_and_folder_are_the_same_to_the_bit_and_make_cards_again(run, model, tmp_path):
    words = ["--weights", str(run), "--licence", "CC0", "--task", "sr2,denoise50"]
    for form in ("npz", "folder"):
        out = tmp_path / f"w.{form}"
        assert main(["export", *words, "--format", form, "--out", str(out)]) == 0
        loaded = ipt_jax.load(str(out))
        jax.tree.map(
            np.testing.assert_array_equal, loaded.params, model.only(["sr2", "denoise50"]).params
        )
        said = json.loads((tmp_path / f"w.{form}.card.json").read_text())
        assert [task["name"] for task in said["tasks"]] == ["sr2", "denoise50"]
        assert said["scores"] == {"held_out/sr2/psnr_y": 31.5, "held_out/denoise50/psnr_y": 27.0}
        assert said["training"]["licence of the data"] == "CC0" and said["training"]["steps"] == 20
        # The card contains no path of the run.
        assert said["source"] == f"{run.name}@20"
        assert (
            said["training"]["config"]["batch_size"] == 32 * 2
            and said["difference from the model"] == 0
        )
        assert str(tmp_path) not in json.dumps(said) and str(run.parent) not in json.dumps(said)
    assert str(run.parent) not in (tmp_path / "w.folder" / "model.json").read_text()
    half = tmp_path / "half"
    assert (
        main(["export", *words, "--format", "folder", "--dtype", "float16", "--out", str(half)])
        == 0
    )
    sizes = [
        (tmp_path / name / "weights.safetensors").stat().st_size for name in ("half", "w.folder")
    ]
    # In so small a model the names take a part of the file.
    assert sizes[0] < 0.7 * sizes[1]
    for a, b in zip(
        jax.tree.leaves(ipt_jax.load(str(half)).params), jax.tree.leaves(loaded.params), strict=True
    ):
        np.testing.assert_array_equal(a, b.astype(np.float16).astype(np.float32))
    again = tmp_path / "again.safetensors"
    assert (
        main(
            [
                "export",
                "--weights",
                str(tmp_path / "w.folder"),
                "--format",
                "safetensors",
                "--out",
                str(again),
            ]
        )
        == 0
    )
    text = (tmp_path / "again.safetensors.card.md").read_text()
    assert (
        "- steps: 20" in text
        and "- licence of the training data: CC0" in text
        and "| held_out/sr2/psnr_y | 31.5 |" in text
    )


def test_raw_weights_or_their_average(run, tmp_path):
    outs = [tmp_path / "ema.npz", tmp_path / "raw.npz"]
    for out, flag in zip(outs, ([], ["--raw"]), strict=True):
        assert (
            main(
                [
                    "export",
                    "--weights",
                    str(run),
                    "--format",
                    "npz",
                    "--task",
                    "sr2",
                    "--out",
                    str(out),
                    *flag,
                ]
            )
            == 0
        )
    ema, raw = (ipt_jax.load(str(out)).params for out in outs)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b * np.float32(0.5)), ema, raw)
    names = [
        json.loads((tmp_path / f"{out.name}.card.json").read_text())["weights"] for out in outs
    ]
    assert names == ["moving average", "raw"]


def test_no_optimiser_state_is_read(run, monkeypatch):
    read = []
    theirs = checkpoint.ocp.load_checkpointables

    def spied(folder, wanted):
        found = theirs(folder, wanted)
        read.extend(jax.tree_util.tree_flatten_with_path(found)[0])
        return found

    monkeypatch.setattr(checkpoint.ocp, "load_checkpointables", spied)
    loaded = ipt_jax.load(str(run))
    assert read and sum(x.nbytes for _, x in read) == sum(
        x.nbytes for x in jax.tree.leaves(loaded.params)
    )
    assert not [path for path, _ in read if "opt" in jax.tree_util.keystr(path)]


def test_a_result_that_differs_from_the_model_is_refused_and_deleted(
    run, model, tmp_path, monkeypatch, capsys
):
    from ipt_jax.export import stablehlo

    theirs = stablehlo.read_program
    monkeypatch.setattr(
        stablehlo, "read_program", lambda path: lambda x, task: theirs(path)(x + 0.1, task)
    )
    out = tmp_path / "x.stablehlo"
    with pytest.raises(ExportError, match=r"differs from the model by .* the bound is 1e-05"):
        export_weights(model.only(["sr2"]), out, "stablehlo")
    assert (
        main(
            [
                "export",
                "--weights",
                str(run),
                "--format",
                "stablehlo",
                "--task",
                "sr2",
                "--out",
                str(out),
            ]
        )
        == 1
    )
    assert not list(tmp_path.iterdir()) and "the bound is" in capsys.readouterr().err
    assert check.largest_difference(
        model, lambda x, task: np.full_like(model.apply(x, task), np.nan)
    ) == float("inf")
    assert check.largest_difference(model, lambda x, task: model.apply(x, task)[:, 1:]) == float(
        "inf"
    )


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["--format", "onnx"],
            "contains one task; name it: --task sr2 (the model has sr2, sr3, sr4, denoise50)",
        ),
        (["--format", "npz", "--dtype", "float16"], "--format npz is written in float32"),
        (["--format", "npz", "--task", "sr5"], "no task 'sr5'"),
        (["--format", "npz", "--layout", "nchw"], "--layout nchw: --format npz has no such layout"),
        (["--format", "npz", "--scores", "none.json"], "--scores none.json"),
    ],
)
def test_wrong_usage(run, tmp_path, words, message, capsys):
    assert main(["export", "--weights", str(run), "--out", str(tmp_path / "x"), *words]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_an_existing_file_stays(run, tmp_path, capsys):
    (tmp_path / "x").write_text("mine")
    assert (
        main(["export", "--weights", str(run), "--format", "npz", "--out", str(tmp_path / "x")])
        == 2
    )
    assert (tmp_path / "x").read_text() == "mine" and "--overwrite" in capsys.readouterr().err


def test_a_card_of_weights_without_details(model):
    said = card.make_card(model, EXAMPLE, "npz", "float32", 0.0, card.Details())
    text = card.card_as_markdown(said)
    assert (
        "- steps: not stated" in text
        and "licence of the training data: not stated" in text
        and "None known." in text
    )


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sr2", "sr3", "sr4", "denoise50"])
@pytest.mark.parametrize("dtype, bound", [("float32", 1e-5), ("float16", 5e-3)])
def test_onnx_of_any_batch(run, model, tmp_path, task, dtype, bound):
    ort = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    out = tmp_path / "x.onnx"
    assert (
        main(
            [
                "export",
                "--weights",
                str(run),
                "--format",
                "onnx",
                "--dtype",
                dtype,
                "--task",
                task,
                "--out",
                str(out),
            ]
        )
        == 0
    )
    session = ort.InferenceSession(str(out))
    for count in (1, 2, 7):
        given = check.random_patches(16, count, seed=count)
        assert near(session.run(None, {"patches": given})[0], model.apply(given, task), bound)
    assert session.get_modelmeta().custom_metadata_map["task"] == task
    assert [i.type for i in (*session.get_inputs(), *session.get_outputs())] == [
        "tensor(float)"
    ] * 2


@pytest.fixture(scope="module")
def of_images(run, tmp_path_factory):
    """A session of an ONNX file for sr3 that takes images of any size."""
    ort = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    out = tmp_path_factory.mktemp("nchw") / "x.onnx"
    words = ["--weights", str(run), "--format", "onnx", "--layout", "nchw", "--task", "sr3"]
    assert main(["export", *words, "--out", str(out)]) == 0
    return ort.InferenceSession(str(out))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(16, 16), (5, 40), (1, 1), (17, 16), (61, 38), (47, 103)])
def test_onnx_of_images_of_any_size_is_the_protocol_blend(model, of_images, size):
    images = np.random.default_rng(size[0]).uniform(0, 255, (2, *size, 3)).astype(np.float32)
    (out,) = of_images.run(None, {"image": images.transpose(0, 3, 1, 2) / np.float32(255)})
    want = np.stack(model.restore(list(images), "sr3"))
    assert out.shape == (2, 3, 3 * size[0], 3 * size[1])
    assert near(out.transpose(0, 2, 3, 1) * 255, want)
    (one,) = of_images.run(None, {"image": images[1:].transpose(0, 3, 1, 2) / np.float32(255)})
    assert near(one.transpose(0, 2, 3, 1) * 255, want[1:])


@pytest.mark.slow
def test_onnx_of_images_says_what_it_is(of_images):
    said = of_images.get_modelmeta().custom_metadata_map
    assert said.get("layout") == "nchw"
    assert (said["range"], said["overlap"]) == ("0..1", "12")
    assert of_images.get_inputs()[0].shape == ["batch", 3, "height", "width"]


@pytest.mark.parametrize("fault", ["shape", "nan", "value"])
def test_a_fault_on_images_that_are_no_tile_is_found(model, fault):
    one = model.only(["sr2"])

    def faulty(images, name):
        found = np.stack(list(one.restore_all(images, name)))
        if images.shape[1:3] != (16, 16):
            found[-1, -1, -1] += {"value": 50, "nan": np.nan, "shape": 0}[fault]
        return found[:, 1:] if fault == "shape" else found

    assert check.largest_difference_on_images(one, faulty) > 1e-3
    assert (
        check.largest_difference_on_images(
            one, lambda images, name: np.stack(list(one.restore_all(images, name)))
        )
        == 0
    )


@pytest.mark.slow
@pytest.mark.parametrize("out_bias, eps", [(True, 1e-5), (False, 1e-7)])
def test_onnx_of_the_authors_variants(tmp_path, out_bias, eps):
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    import golden

    from ipt_jax.restore.restorer import Restorer
    from ipt_jax.tasks import TASKS

    network = golden.tiny(out_bias).clone(norm_eps=eps)
    restorer = Restorer(
        network, golden.params(network, 1), {name: TASKS[name] for name, _ in network.scales}, {}
    )
    for form in ("onnx", "stablehlo"):
        assert export_weights(restorer.only(["sr4"]), tmp_path / f"x.{form}", form) <= 1e-5


def run_example(*words: object) -> subprocess.CompletedProcess[str]:
    """Runs the example in a process of its own."""
    command = [sys.executable, str(EXAMPLE), *map(str, words), "--overlap", "4"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def networks(run, tmp_path_factory) -> pathlib.Path:
    """A folder with ONNX files for sr2 and denoise50."""
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    folder = tmp_path_factory.mktemp("onnx")
    for task in ("sr2", "denoise50"):
        words = ["--weights", str(run), "--format", "onnx", "--task", task]
        assert main(["export", *words, "--out", str(folder / f"{task}.onnx")]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sr2", "denoise50"])
def test_the_example_gives_the_pixels_that_ipt_restore_gives(run, networks, tmp_path, task):
    """Grey, alpha, 16 bits, palettes, orientation: thirty images of all kinds."""
    mixed.make(tmp_path / "in")
    cut_out = mixed.smooth(40, 50, 4, seed=50)
    cut_out[:20, :, :3], cut_out[:20, :, 3] = 0, 0
    Image.fromarray(cut_out).save(tmp_path / "in" / "cut_out.png")
    words = ["--task", task, "--weights", str(run), "-o", str(tmp_path / "want")]
    assert main(["restore", str(tmp_path / "in"), *words, "--overlap", "4"]) == 0
    sources = [path for path in sorted((tmp_path / "in").rglob("*")) if path.is_file()]
    assert len(sources) == 31
    done = run_example(networks / f"{task}.onnx", sources[0], tmp_path / "first.png")
    assert done.returncode == 0, done.stderr
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(networks / f"{task}.onnx"))
    example = runpy.run_path(str(EXAMPLE))
    for source in sources:
        image, profile = example["read"](str(source))
        out = example["restore_channels"](session, image, 4)
        example["write"](str(tmp_path / "out.png"), out, profile)
        if source == sources[0]:
            assert (tmp_path / "out.png").read_bytes() == (tmp_path / "first.png").read_bytes()
        name = source.relative_to(tmp_path / "in").with_suffix(".png")
        have = read_image(tmp_path / "out.png").pixels.astype(int)
        want = read_image(tmp_path / "want" / name).pixels.astype(int)
        if (have.shape[2], want.shape[2]) == (4, 2):
            # OpenCV, which writes 16-bit grey with alpha for the example, has no such format.
            want = want[..., [0, 0, 0, 1]]
        # A value near .5 may be rounded up or down.
        bound = 1 if want.max() < 256 else 8
        assert have.shape == want.shape and np.abs(have - want).max() <= bound, source
        # Alpha, enlarged, has many values of .5.
        colours = slice(0, want.shape[2] - 1 if want.shape[2] in (2, 4) else None)
        assert bound > 1 or (have != want)[..., colours].mean() < 2e-3, source


@pytest.mark.slow
def test_the_example_refuses_what_it_cannot_do(networks, tmp_path):
    network = networks / "denoise50.onnx"
    image = Image.fromarray(mixed.smooth(20, 30, 3))
    image.convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(np.zeros((9, 9), np.float32)).save(tmp_path / "float.tif")
    deep = mixed.smooth(20, 30, 3, 65535)
    (tmp_path / "deep.png").write_bytes(mixed.written_deep(deep, "png"))
    image.convert("RGBA").save(tmp_path / "alpha.png")
    for source, out, message in (
        ("cmyk.jpg", "x.png", "pixels of mode CMYK"),
        ("float.tif", "x.png", "pixels of mode F"),
        ("deep.png", "x.jpg", "16-bit colours"),
        ("alpha.png", "x.jpg", "name a .png file"),
        ("none.png", "x.png", "No such file"),
    ):
        done = run_example(network, tmp_path / source, tmp_path / out)
        assert done.returncode == 1 and message in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_torch_files_are_checked_too(run, tmp_path):
    pytest.importorskip("torch", reason="needs the extra torch")
    assert (
        main(
            ["export", "--weights", str(run), "--format", "torch", "--out", str(tmp_path / "x.pt")]
        )
        == 0
    )
    assert (tmp_path / "x.pt.card.md").is_file()


def test_onnx_names_the_missing_package(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(WeightsError, match=r"pip install -e '\.\[onnx\]'"):
        export_weights(model.only(["sr2"]), tmp_path / "x.onnx", "onnx")


@pytest.mark.parametrize("task", ["sr2", "denoise50"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_fault_in_any_task_and_number_of_patches_is_found(run, task, count):
    restorer = ipt_jax.load(str(run))

    def faulty(given, name):
        found = np.array(restorer.apply(given, name))
        if name == task and len(given) == count:
            found[0, 0, 0, 0] += 0.1 * np.abs(found).max()
        return found

    assert 0.05 < check.largest_difference(restorer, faulty) < 0.2
    assert check.largest_difference(restorer, restorer.apply) == 0
