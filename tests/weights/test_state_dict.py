"""Reading and writing files with the authors' names, and weights folders."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import struct

import golden
import jax
import ml_dtypes
import numpy as np
import pytest
import runs
import small
from safetensors.numpy import load_file, save_file

import ipt_jax
from ipt_jax.cli import weights as commands_weights
from ipt_jax.errors import WeightsError
from ipt_jax.model import IPT
from ipt_jax.restore.restorer import Restorer
from ipt_jax.tasks import PAPER_TASKS, TASKS, make_task
from ipt_jax.weights import authors, task_names, tensor_files
from ipt_jax.weights import folder as weights_folder
from ipt_jax.weights import state_dict as weights

MICRO = dict(features=4, heads=2, patch=2, tile=8, encoder_layers=2, decoder_layers=1, hidden=8)


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    commands_weights.add_parser(parser.add_subparsers(required=True))
    options = parser.parse_args(words)
    return options.run(options)


def restorer_of(model: IPT, seed: int = 0) -> Restorer:
    tasks = {name: task_names.task_from_name(name, scale) for name, scale in model.scales}
    return Restorer(model, runs.random_params(model, seed), tasks, {"from": "a test"})


def micro(*scales: tuple[str, int], **changes) -> Restorer:
    return restorer_of(IPT(scales or golden.SCALES, **{**MICRO, **changes}))


def state_of(restorer: Restorer) -> dict[str, np.ndarray]:
    return weights.params_to_torch(restorer.params, restorer.model)


def saved(path: pathlib.Path, state: dict[str, np.ndarray]) -> pathlib.Path:
    save_file({name: np.ascontiguousarray(value) for name, value in state.items()}, path)
    return path


def same(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("bias", [False, True])
def test_a_file_tells_its_geometry_and_tasks(tmp_path, bias):
    model = golden.tiny(bias)
    params = golden.params(model, 3)
    path = saved(tmp_path / "a.safetensors", weights.params_to_torch(params, model))
    loaded = ipt_jax.load(str(path), heads=2)
    assert loaded.model == model
    assert list(loaded.tasks) == list(PAPER_TASKS)
    assert list(loaded.tasks.values()) == [TASKS[name] for name in PAPER_TASKS]
    same(loaded.params, params)


@pytest.mark.parametrize("name, scale", [("sr2", 2), ("sr3", 3), ("sr4", 4), ("sr5", 5)])
def test_a_single_sr_task_is_known_by_its_tail(tmp_path, name, scale):
    one = micro((name, scale))
    loaded = ipt_jax.load(str(saved(tmp_path / "a.safetensors", state_of(one))), heads=2)
    assert loaded.model == one.model and list(loaded.tasks) == [name]


def test_a_x1_task_must_be_named(tmp_path):
    path = str(saved(tmp_path / "a.safetensors", state_of(micro(("x", 1)))))
    with pytest.raises(
        WeightsError, match=r"do not tell the tasks: tails for x1.*--task denoise50"
    ):
        ipt_jax.load(path, heads=2)
    assert ipt_jax.load(path, task="derain", heads=2).tasks == {"derain": TASKS["derain"]}
    assert ipt_jax.load(path, task="denoise70", heads=2).tasks["denoise70"].degrade.sigma == 70
    blur = ipt_jax.load(path, task="dehaze", heads=2).tasks["dehaze"]
    with pytest.raises(ValueError, match="it needs pairs"):
        blur.degrade(np.zeros((8, 8, 3), np.uint8), np.random.default_rng())
    for task, message in (
        ("sr2", "'sr2' is for x2; the tail in the file is for x1"),
        ("derain,denoise30", "names 2 tasks"),
    ):
        with pytest.raises(WeightsError, match=message):
            ipt_jax.load(path, task=task, heads=2)


@pytest.mark.parametrize(
    "heads, message", [(None, "heads=12 does not divide.*--heads"), (3, "heads=3"), (0, "heads=0")]
)
def test_heads_must_divide(tmp_path, heads, message):
    path = str(saved(tmp_path / "a.safetensors", state_of(micro())))
    with pytest.raises(WeightsError, match=message):
        ipt_jax.load(path, heads=heads)


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "module.model.", "net_g.", "generator.module.", "ema."]
)
def test_prefixes_are_taken_off(tmp_path, prefix):
    one = micro(("sr2", 2))
    path = saved(
        tmp_path / "a.safetensors", {prefix + name: value for name, value in state_of(one).items()}
    )
    same(ipt_jax.load(str(path), heads=2).params, one.params)


def test_fixed_tensors_may_be_missing_but_not_different(tmp_path):
    one = micro(("sr2", 2))
    state = state_of(one)
    fixed = weights.fixed_tensors(one.model.tokens)
    path = saved(
        tmp_path / "a.safetensors",
        {name: value for name, value in state.items() if name not in fixed},
    )
    same(ipt_jax.load(str(path), heads=2).params, one.params)
    # A file for images in 0..1 has this value.
    state["sub_mean.bias"] = state["sub_mean.bias"] / 255
    with pytest.raises(WeightsError, match=r"sub_mean\.bias: it is not the published value"):
        ipt_jax.load(str(saved(tmp_path / "b.safetensors", state)), heads=2)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_floats_become_float32(tmp_path, dtype):
    one = micro(("sr2", 2))
    state = {
        name: value.astype(dtype) if value.dtype == np.float32 else value
        for name, value in state_of(one).items()
    }
    loaded = ipt_jax.load(str(saved(tmp_path / "a.safetensors", state)), heads=2)
    for have, want in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(one.params), strict=True):
        assert have.dtype == np.float32
        np.testing.assert_array_equal(have, want.astype(dtype).astype(np.float32))
    # A mean that is off by more than the rounding of its precision is refused.
    state["add_mean.bias"] = (state_of(one)["add_mean.bias"] + 1).astype(dtype)
    with pytest.raises(WeightsError, match=r"add_mean\.bias: it is not the published value"):
        ipt_jax.load(str(saved(tmp_path / "b.safetensors", state)), heads=2)


def test_all_differences_are_listed_and_nothing_is_loaded(tmp_path):
    state = state_of(micro())
    del state["body.encoder.layers.1.linear2.bias"], state["head.2.1.body.0.weight"]
    state["body.decoder.layers.0.norm4.weight"] = np.zeros(16, np.float32)
    state["tail.3.1.weight"] = np.zeros((3, 4, 5, 5), np.float32)
    state["body.linear_encoding.bias"] = np.full(16, np.nan, np.float32)
    path = saved(tmp_path / "a.safetensors", state)
    with pytest.raises(WeightsError) as caught:
        ipt_jax.load(str(path), heads=2)
    text = str(caught.value)
    assert str(path) in text
    for line in (
        "body.encoder.layers.1.linear2.bias: missing, [16]",
        "head.2.1.body.0.weight: missing, [4, 4, 5, 5]",
        "body.decoder.layers.0.norm4.weight: unexpected, [16]",
        "tail.3.1.weight: [3, 4, 5, 5], not [3, 4, 3, 3]",
        "body.linear_encoding.bias: it contains values that are not finite",
    ):
        assert line in text
    with pytest.raises(WeightsError):
        command("import", str(path), "--heads", "2", "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"head.0.0.weight": None}, "not IPT's weights: no head.0.0.weight; it contains"),
        ({"body.linear_encoding.weight": np.zeros((15, 15), np.float32)}, "do not fit 4 features"),
        (
            {"body.query_embed.weight": np.zeros((2, 256), np.float32)},
            "6 heads, 6 tails and 2 task embeddings",
        ),
        ({"head.999999.0.weight": np.zeros(1, np.float32)}, "has the numbers"),
        (
            {"tail.0.0.0.weight": np.zeros((20, 4, 3, 3), np.float32)},
            r"tail.0.0.0.weight: \[20, 4, 3, 3\], not \[16, 4, 3, 3\]",
        ),
        (
            {"tail.0.0.0.weight": np.zeros((100, 4, 3, 3), np.float32)},
            "do not tell the tasks: tails for x5, x3, x4",
        ),
        (
            {"tail.0.1.weight": np.zeros((3, 4, 3, 3), np.int8)},
            r"tail.0.1.weight: int8, not floating point",
        ),
    ],
)
def test_other_architectures_are_refused(tmp_path, change, message):
    state = {**state_of(micro()), **change}
    path = saved(tmp_path / "a.safetensors", {k: v for k, v in state.items() if v is not None})
    with pytest.raises(WeightsError, match=message):
        ipt_jax.load(str(path), heads=2)


def test_export_folds_the_input_scale_and_computes_the_same(tmp_path):
    one = restorer_of(small.model(small.config(tasks=("sr2", "denoise50"))))
    assert one.model.input_scale == 127.5
    authors.write_authors_file(one, tmp_path / "a.safetensors", "safetensors")
    # Our exports state the heads and the tasks.
    back = ipt_jax.load(str(tmp_path / "a.safetensors"))
    assert back.model == one.model.clone(input_scale=1.0, start="torch") and list(back.tasks) == [
        "sr2",
        "denoise50",
    ]
    patches = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    for task in one.tasks:
        expected = one.apply(patches, task)
        np.testing.assert_allclose(
            back.apply(patches, task), expected, rtol=0, atol=2e-6 * np.abs(expected).max()
        )
    authors.write_authors_file(back, tmp_path / "b.safetensors", "safetensors")
    same(load_file(tmp_path / "b.safetensors"), load_file(tmp_path / "a.safetensors"))


def test_one_task_is_cut_out_in_the_single_task_form(tmp_path):
    whole = micro()
    saved(tmp_path / "whole.safetensors", state_of(whole))
    assert (
        command(
            "export",
            "--weights",
            str(tmp_path / "whole.safetensors"),
            "--heads",
            "2",
            "--format",
            "safetensors",
            "--task",
            "sr3",
            "--out",
            str(tmp_path / "sr3.safetensors"),
        )
        == 0
    )
    one, all_of_them = load_file(tmp_path / "sr3.safetensors"), state_of(whole)
    expected = {
        k.replace("head.1.", "head.0.").replace("tail.1.", "tail.0."): v
        for k, v in all_of_them.items()
        if not k.startswith(("head.", "tail.")) or k.startswith(("head.1.", "tail.1."))
    }
    expected["body.query_embed.weight"] = all_of_them["body.query_embed.weight"][1:2]
    assert one.keys() == expected.keys()
    same(one, expected)
    with pytest.raises(WeightsError, match="--task sr5: this model has no task 'sr5'"):
        command(
            "export",
            "--weights",
            str(tmp_path / "whole.safetensors"),
            "--heads",
            "2",
            "--format",
            "npz",
            "--task",
            "sr5",
            "--out",
            str(tmp_path / "x"),
        )


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_our_own_formats_are_read_as_they_were_written(tmp_path, kind):
    odd = make_task({"name": "denoise7", "degradation": "noise", "sigma": 7.5})
    plain = small.config(tasks=("sr2", {"name": "denoise7", "degradation": "noise", "sigma": 7.5}))
    model = small.model(plain)
    params = runs.random_params(model, 0)
    one = Restorer(
        model, params, {"sr2": TASKS["sr2"], "denoise7": odd}, {"from": "a test", "step": 7}
    )
    out = tmp_path / "weights"
    write = {"folder": weights_folder.write_weights_folder, "npz": weights_folder.write_npz}[kind]
    write(one, out)
    back = ipt_jax.load(str(out))
    same(back.params, params)
    assert back.model.clone(start=model.start) == model
    assert back.tasks == one.tasks and back.provenance == one.provenance
    assert ipt_jax.load(str(out), task="denoise7").tasks == {"denoise7": odd}


def test_a_folder_of_format_1_is_read(tmp_path):
    """Later versions must be able to read what the first version wrote."""
    one = micro(("sr2", 2))
    weights_folder.write_weights_folder(one, tmp_path / "w")
    described = json.loads((tmp_path / "w" / "model.json").read_text())
    assert described["format"] == 1 and described["tasks"] == [{"name": "sr2", "scale": 2}]
    assert described["model"] == {
        "features": 4,
        "patch": 2,
        "heads": 2,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "hidden": 8,
        "tile": 8,
        "input_scale": 1.0,
        "out_bias": False,
        "norm_eps": 1e-5,
        "memory_norm": False,
    }
    # The first files did not have this key.
    del described["model"]["memory_norm"]
    (tmp_path / "w" / "model.json").write_text(json.dumps(described))
    back = weights_folder.read_weights_folder(tmp_path / "w")
    same(back.params, one.params)
    assert not back.model.memory_norm
    assert sorted(load_file(tmp_path / "w" / "weights.safetensors"))[:2] == [
        "body/decoder/cross_attention/out/kernel",
        "body/decoder/cross_attention/qkv",
    ]


def broken_folder(tmp_path: pathlib.Path, change) -> str:
    weights_folder.write_weights_folder(micro(("sr2", 2)), tmp_path / "w")
    described = json.loads((tmp_path / "w" / "model.json").read_text())
    change(described)
    (tmp_path / "w" / "model.json").write_text(json.dumps(described))
    return str(tmp_path / "w")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d.update(format=2), "format 2; this version of ipt_jax reads 1 to 1"),
        (lambda d: d.update(format="1"), "format '1'"),
        (lambda d: d.pop("model"), "does not describe a model"),
        (lambda d: d["tasks"][0].pop("name"), "does not describe a model"),
        (lambda d: d["model"].update(patch=0), "model.patch is 0"),
        (lambda d: d["model"].update(heads=5), "the heads the token width"),
        (lambda d: d["model"].update(input_scale=float("nan")), "model.input_scale is nan"),
        (lambda d: d.update(sha256="0" * 64), "its checksum differs"),
        (
            lambda d: d["model"].update(hidden=9),
            r"body\.encoder\.feed_forward\.in\.kernel: \[2, 16, 8\], not \[2, 16, 9\]",
        ),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(tmp_path, change, message):
    with pytest.raises(WeightsError, match=message):
        ipt_jax.load(broken_folder(tmp_path, change))


def test_a_folder_without_its_parts_is_refused(tmp_path):
    folder = pathlib.Path(broken_folder(tmp_path, lambda d: None))
    with pytest.raises(WeightsError, match="has no steps"):
        ipt_jax.load(f"{folder}@3")
    (folder / "model.json").write_text("{")
    with pytest.raises(WeightsError, match="does not describe a model"):
        ipt_jax.load(str(folder))
    (folder / "weights.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"no weights\.safetensors"):
        ipt_jax.load(str(folder))


def test_writing_overwrites_nothing_else(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(WeightsError, match="not a weights folder; name another one"):
        weights_folder.write_weights_folder(micro(("sr2", 2)), tmp_path)
    with pytest.raises(WeightsError, match="is a folder; name a file"):
        command("export", "--weights", "w", "--format", "npz", "--out", str(tmp_path))
    with pytest.raises(WeightsError, match="there is no folder"):
        command("export", "--weights", "w", "--format", "npz", "--out", str(tmp_path / "a" / "b"))


def test_import_writes_a_folder_with_provenance(tmp_path, capsys):
    one = micro()
    path = saved(tmp_path / "IPT_pretrain.safetensors", state_of(one))
    assert command("import", str(path), "--heads", "2", "--out", str(tmp_path / "w")) == 0
    assert "tasks sr2, sr3, sr4, derain, denoise30, denoise50" in capsys.readouterr().out
    back = ipt_jax.load(str(tmp_path / "w"))
    same(back.params, one.params)
    assert (
        back.provenance["from"] == "IPT_pretrain.safetensors"
        and len(back.provenance["sha256"]) == 64
    )


def test_a_run_is_exported_with_its_average(tmp_path):
    runs.make_run(tmp_path / "run")
    command(
        "export",
        "--weights",
        str(tmp_path / "run"),
        "--format",
        "folder",
        "--out",
        str(tmp_path / "w"),
    )
    back, run = ipt_jax.load(str(tmp_path / "w")), ipt_jax.load(str(tmp_path / "run"))
    same(back.params, run.params)
    assert back.provenance["part"] == "ema" and back.provenance["step"] == 20


# Damaged files, and files of other formats.


def header(text: str, length: int | None = None) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data) if length is None else length) + data


BAD = {
    "empty": (b"", "an empty file"),
    "text": (b"hello, these are no weights at all", "not a MindSpore checkpoint"),
    "absurd header length": (header('{"a": 1}', 2**60), "not an intact safetensors file"),
    "header cut short": (
        header('{"a": {"dtype": "F32", "shape": [2]', 5000),
        "not an intact safetensors file",
    ),
    "absurd shape": (
        header('{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,16]}}')
        + bytes(16),
        "not an intact safetensors file",
    ),
    "data cut short": (
        header('{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}') + bytes(8),
        "not an intact safetensors",
    ),
    "other tensors": (
        header('{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}') + bytes(16),
        "not IPT's weights: no head",
    ),
    "no tensors": (header("{}"), "not IPT's weights"),
    "not a zip": (
        b"PK\x03\x04 and then nothing of the kind",
        "cut short or damaged: File is not a zip file",
    ),
}


@pytest.mark.parametrize("data, message", BAD.values(), ids=BAD.keys())
def test_broken_files_are_refused_by_name(tmp_path, data, message):
    path = tmp_path / "weights.bin"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=message) as caught:
        ipt_jax.load(str(path), heads=2)
    assert str(path) in str(caught.value)


def test_every_cut_of_a_file_is_refused(tmp_path):
    one = micro(("sr2", 2))
    authors.write_authors_file(one, tmp_path / "a.safetensors", "safetensors")
    weights_folder.write_npz(one, tmp_path / "a.npz")
    for name in ("a.safetensors", "a.npz"):
        data = (tmp_path / name).read_bytes()
        for length in (1, 7, 9, 100, len(data) // 2, len(data) - 1):
            (tmp_path / "cut").write_bytes(data[:length])
            with pytest.raises(WeightsError):
                ipt_jax.load(str(tmp_path / "cut"), heads=2)


def test_an_npz_with_objects_or_an_absurd_header_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(WeightsError, match=r"x.npy: Object arrays cannot be loaded"):
        ipt_jax.load(str(tmp_path / "a.npz"))
    np.savez(tmp_path / "b.npz", x=np.zeros(3, np.float32))
    data = (
        (tmp_path / "b.npz")
        .read_bytes()
        .replace(b"(3,), }" + b" " * 13, b"(3333333333333,), }" + b" ")
    )
    (tmp_path / "b.npz").write_bytes(data)
    with pytest.raises(WeightsError):
        ipt_jax.load(str(tmp_path / "b.npz"))


# MindSpore's .ckpt files, written by hand from the description of the format.


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def mindspore_name(name: str) -> str:
    name = name.replace("query_embed.weight", "query_embed.embedding_table").replace(
        "pe.weight", "pe.embedding_table"
    )
    name = name.replace("_attn.in_proj_weight", "_attn.weight")
    if ".norm" in name:
        name = name.replace(".weight", ".layernorm.gamma").replace(".bias", ".layernorm.beta")
    parts = name.split(".")
    if parts[0] == "tail" and parts[2] == "0":
        parts[2:4] = ["0", "net", str(int(parts[3]) // 2), "conv"]
    return ".".join(parts)


def mindspore_file(state: dict[str, np.ndarray], pieces: int = 2) -> bytes:
    out = b""
    for name, value in state.items():
        data = value.tobytes()
        size = -(-len(data) // pieces // 4) * 4 or 4
        for at in range(0, len(data), size):
            kind = {"float32": b"Float32", "int32": b"Int32"}[value.dtype.name]
            tensor = (
                b"".join(field(1, d) for d in value.shape)
                + field(2, kind)
                + field(3, data[at : at + size])
            )
            out += field(1, field(1, name.encode()) + field(2, tensor))
    return out


def test_a_mindspore_checkpoint_is_read_without_mindspore(tmp_path):
    one = micro()
    fixed = weights.fixed_tensors(one.model.tokens)
    trained = {name: value for name, value in state_of(one).items() if name not in fixed}
    state = {mindspore_name(name): value for name, value in trained.items()}
    state["moment1.head.0.0.weight"], state["global_step"] = (
        np.zeros(3, np.float32),
        np.zeros(1, np.int32),
    )
    assert (
        "tail.2.0.net.1.conv.weight" in state
        and "body.decoder.layers.0.multihead_attn.weight" in state
    )
    (tmp_path / "a.ckpt").write_bytes(mindspore_file(state))
    loaded = ipt_jax.load(str(tmp_path / "a.ckpt"), heads=2)
    same(loaded.params, one.params)
    assert loaded.model.norm_eps == 1e-7
    authors.write_authors_file(loaded, tmp_path / "a.safetensors", "safetensors")
    assert ipt_jax.load(str(tmp_path / "a.safetensors")).model.norm_eps == 1e-7
    weights_folder.write_weights_folder(loaded, tmp_path / "folder")
    assert ipt_jax.load(str(tmp_path / "folder")).model.norm_eps == 1e-7


@pytest.mark.parametrize(
    "data, message",
    [
        (
            field(
                1,
                field(1, b"a")
                + field(
                    2, field(1, 2**62) + field(1, 4) + field(2, b"Float32") + field(3, bytes(16))
                ),
            ),
            "16 bytes for",
        ),
        (
            field(1, field(1, b"a") + field(2, field(2, b"Float33") + field(3, bytes(4)))),
            "type 'Float33'",
        ),
        (field(1, field(1, b"a")), "without a name or a tensor"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(40), "cut short"),
        (b"\x0a" + b"\xff" * 40, "cut short"),
        (b"\x10\x01" * 10, "no tensors in it"),
    ],
)
def test_a_damaged_mindspore_checkpoint_is_refused(tmp_path, data, message):
    (tmp_path / "a.ckpt").write_bytes(data)
    with pytest.raises(WeightsError, match=message):
        ipt_jax.load(str(tmp_path / "a.ckpt"))


def test_only_regular_files_of_bounded_size_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "zero.npz").symlink_to("/dev/zero")
    with open(tmp_path / "sparse.ckpt", "wb") as file:
        file.truncate(200 << 30)
    for name, message in (
        ("pipe.pt", "it is a named pipe, not a regular file"),
        ("zero.npz", "it is a device, not a regular file"),
        ("sparse.ckpt", r"it has 214,748,364,800 bytes, more than the limit of [\d,]+"),
    ):
        with pytest.raises(WeightsError, match=rf"{name}: {message}$"):
            tensor_files.read_tensor_file(tmp_path / name)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "weights.safetensors").touch()
    os.mkfifo(tmp_path / "folder" / "model.json")
    with pytest.raises(WeightsError, match=r"model\.json: it is a named pipe, not a regular file$"):
        weights_folder.read_weights_folder(tmp_path / "folder")
