"""Exports compute what the model computes, without this package and in other processes."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import jax
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


@pytest.mark.slow
@pytest.mark.parametrize("task, size", [("sr2", (70, 41)), ("denoise50", (10, 55))])
def test_the_example_gives_the_image_that_ipt_restore_gives(run, tmp_path, task, size):
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "in.png")
    assert (
        main(
            [
                "export",
                "--weights",
                str(run),
                "--format",
                "onnx",
                "--task",
                task,
                "--out",
                str(tmp_path / "x.onnx"),
            ]
        )
        == 0
    )
    words = [
        sys.executable,
        str(EXAMPLE),
        *(str(tmp_path / name) for name in ("x.onnx", "in.png", "out.png")),
        "--overlap",
        "4",
    ]
    subprocess.run(words, check=True, timeout=120)
    want = tmp_path / "want.png"
    assert (
        main(
            [
                "restore",
                str(tmp_path / "in.png"),
                "--task",
                task,
                "--weights",
                str(run),
                "-o",
                str(want),
                "--overlap",
                "4",
            ]
        )
        == 0
    )
    a, b = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("out.png", "want.png"))
    # A value near .5 may be rounded up or down.
    assert a.shape == b.shape and np.abs(a - b).max() <= 1 and (a != b).mean() < 1e-3


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
    with pytest.raises(WeightsError, match=r"pip install 'ipt_jax\[onnx\]'"):
        export_weights(model.only(["sr2"]), tmp_path / "x.onnx", "onnx")
