"""Exchange with PyTorch: its files are read, it reads ours, and both compute the same."""

from __future__ import annotations

import argparse
import functools
import os
import pathlib
import pickle
import resource
import warnings
import zipfile

import golden
import jax
import numpy as np
import places
import pytest
import small

import ipt_jax
from ipt_jax.cli import weights as commands_weights
from ipt_jax.errors import WeightsError
from ipt_jax.model import IPT
from ipt_jax.restore.restorer import Restorer
from ipt_jax.tasks import TASKS
from ipt_jax.weights import authors
from ipt_jax.weights import folder as weights_folder
from ipt_jax.weights import state_dict as weights

torch = pytest.importorskip("torch", reason="needs the extra `torch`")
pytestmark = pytest.mark.slow
BOUND = 2e-6
NAMES = "sr2,sr3,sr4,denoise50"


def tensors(state):
    return {name: torch.from_numpy(np.array(value)) for name, value in state.items()}


def imported(tmp_path: pathlib.Path, model: IPT, seed: int) -> Restorer:
    """Returns the golden weights after they were saved as .pt and imported by `ipt import`."""
    torch.save(
        tensors(weights.params_to_torch(golden.params(model, seed), model)), tmp_path / "a.pt"
    )
    parser = argparse.ArgumentParser()
    commands_weights.add_parser(parser.add_subparsers())
    options = parser.parse_args(
        [
            "import",
            str(tmp_path / "a.pt"),
            "--heads",
            str(model.heads),
            "--out",
            str(tmp_path / "w"),
        ]
    )
    assert options.run(options) == 0
    return ipt_jax.load(str(tmp_path / "w"))


@pytest.mark.parametrize("file, seed", [("tiny", 0), ("tiny_out_bias", 3)])
def test_imported_tiny_weights_compute_the_authors_numbers(tmp_path, file, seed):
    loaded = imported(tmp_path, golden.tiny(file == "tiny_out_bias"), seed)
    stored = np.load(golden.FILE)
    for task in loaded.tasks:
        out = loaded.apply(stored[f"{file}/image"][None], task)
        assert golden.difference(out[0], stored, f"{file}/{task}/output") < BOUND
    if file == "tiny":
        chop = np.load(places.GOLDEN / "golden_chop.npz")
        for name in (
            "chop_101x75/sr2",
            "chop_101x75/denoise30",
            "chop_60x96/derain",
            "ensemble_48x60/sr2",
        ):
            folder, task = name.split("/")
            (out,) = loaded.restore_all(
                [chop[f"{folder}/image"]], task, protocol="official", ensemble="ensemble" in name
            )
            assert golden.difference(out, chop, name) < BOUND


def test_imported_full_weights_compute_the_authors_numbers(tmp_path):
    loaded = imported(tmp_path, IPT(golden.SCALES), 0)
    stored = np.load(golden.FILE)
    for task in ("sr4", "denoise50"):
        out = loaded.apply(stored["full/image"][None], task)
        assert golden.difference(out[0], stored, f"full/{task}/output") < BOUND


@functools.cache
def exported() -> Restorer:
    model = small.model(small.config(tasks=NAMES.split(",")))
    params = golden.params(model.clone(input_scale=1.0), 1)
    return Restorer(model, params, {name: TASKS[name] for name in model.names}, {"from": "a test"})


@pytest.mark.parametrize("only", [None, "sr2", "sr3", "sr4", "denoise50"])
@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_exports_load_strictly_in_pytorch_and_give_the_same_pictures(tmp_path, only, kind):
    from safetensors.torch import load_file
    from torch_ipt import TorchIPT

    one = exported() if only is None else exported().only([only])
    path = tmp_path / "weights"
    authors.write_authors_file(one, path, kind)
    net = TorchIPT(one.model).eval()
    net.load_state_dict(
        torch.load(path, weights_only=True) if kind == "torch" else load_file(path), strict=True
    )
    patches = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.float32)
    for index, task in enumerate(one.tasks):
        theirs = (
            net(torch.from_numpy(patches.transpose(0, 3, 1, 2)), index)
            .numpy()
            .transpose(0, 2, 3, 1)
        )
        ours = one.apply(patches, task)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=BOUND * np.abs(theirs).max())


def test_a_state_dict_that_pytorch_saved_is_read(tmp_path):
    from torch_ipt import TorchIPT

    model = exported().model
    torch.manual_seed(0)
    net = TorchIPT(model).eval()
    torch.save(net.state_dict(), tmp_path / "a.pt")
    loaded = ipt_jax.load(str(tmp_path / "a.pt"), task=NAMES, heads=2)
    patches = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.float32)
    for index, task in enumerate(loaded.tasks):
        theirs = (
            net(torch.from_numpy(patches.transpose(0, 3, 1, 2)), index)
            .numpy()
            .transpose(0, 2, 3, 1)
        )
        np.testing.assert_allclose(
            loaded.apply(patches, task), theirs, rtol=0, atol=BOUND * np.abs(theirs).max()
        )


def test_round_trips_are_bit_identical(tmp_path):
    from torch_ipt import TorchIPT

    state = TorchIPT(exported().model).state_dict()
    torch.save(state, tmp_path / "a.pt")
    loaded = ipt_jax.load(str(tmp_path / "a.pt"), task=NAMES, heads=2)
    weights_folder.write_weights_folder(loaded, tmp_path / "w")
    authors.write_authors_file(ipt_jax.load(str(tmp_path / "w")), tmp_path / "b.pt", "torch")
    back = torch.load(tmp_path / "b.pt", weights_only=True)
    assert back.keys() == state.keys()
    for name, value in state.items():
        assert value.dtype == back[name].dtype and torch.equal(value, back[name]), name


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"params": {}, "params_ema": s},
        lambda s: {"params": {k: 0 * v for k, v in s.items()}, "params_ema": s},
        lambda s: {"params": s},
        lambda s: {"model": {"module." + k: v for k, v in s.items()}},
        lambda s: {"net_g": s, "net_d": {"a.weight": torch.zeros(3)}},
        lambda s: {"generator": s, "discriminator": {"a.weight": torch.zeros(3)}, "step": 7},
        lambda s: {"model": {k: 0 * v for k, v in s.items()}, "ema": s},
        lambda s: {"state_dict": {k: 0 * v for k, v in s.items()}, "state_dict_ema": s},
        lambda s: {"net_g": {"module." + k: v for k, v in s.items()}, "epoch": 3},
        lambda s: {k: v.double() for k, v in s.items()},
    ],
)
def test_wrapped_files_are_read(tmp_path, wrap):
    one = exported().only(["sr2"])
    torch.save(wrap(tensors(weights.params_to_torch(one.params, one.model))), tmp_path / "a.pt")
    loaded = ipt_jax.load(str(tmp_path / "a.pt"), heads=2)
    plain = weights.params_from_torch(
        weights.params_to_torch(one.params, one.model), one.model.clone(input_scale=1.0)
    )
    jax.tree.map(np.testing.assert_array_equal, loaded.params, plain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_module_in_half_precision_is_read(tmp_path, dtype):
    """As `model.half()` saves it: the constant shifts by the mean are rounded, too."""
    from torch_ipt import TorchIPT

    model = exported().only(["sr2"]).model
    net = TorchIPT(model).to(dtype)
    torch.save(net.state_dict(), tmp_path / "a.pt")
    loaded = ipt_jax.load(str(tmp_path / "a.pt"), heads=2)
    state = {name: value.float().numpy() for name, value in net.state_dict().items()}
    plain = weights.params_from_torch(state, model.clone(input_scale=1.0))
    jax.tree.map(np.testing.assert_array_equal, loaded.params, plain)


def test_files_of_old_pytorch_are_read(tmp_path):
    one = exported().only(["sr2"])
    state = tensors(weights.params_to_torch(one.params, one.model))
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert list(ipt_jax.load(str(tmp_path / "a.pt"), heads=2).tasks) == ["sr2"]


class Code:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_is_refused_and_not_run(tmp_path, legacy):
    torch.save(
        {"head.0.0.weight": Code(tmp_path / "ran")},
        tmp_path / "a.pt",
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(
        WeightsError,
        match=r"a\.pt: refused: it contains something other than tensors.*\(posix\.system\);",
    ):
        ipt_jax.load(str(tmp_path / "a.pt"))
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Code(tmp_path / "ran")))
    with warnings.catch_warnings(), pytest.raises(WeightsError):
        warnings.simplefilter("error")
        ipt_jax.load(str(tmp_path / "b.pt"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content, message",
    [
        ([1, 2], "it contains list"),
        ({}, "it contains dict"),
        ({"epoch": 3}, r"it contains more than named tensors: epoch \(int\)"),
        ({"state_dict": {"a": 1.5}}, "more than named tensors"),
        (torch.zeros(3), "it contains Tensor"),
        ({"a": torch.zeros(3)}, "not IPT's weights: no head.0.0.weight; it contains a"),
    ],
)
def test_other_contents_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=message):
        ipt_jax.load(str(tmp_path / "a.pt"))


@pytest.mark.parametrize("legacy", [False, True])
def test_cut_files_are_refused(tmp_path, legacy):
    one = exported().only(["sr2"])
    state = tensors(weights.params_to_torch(one.params, one.model))
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    data = (tmp_path / "a.pt").read_bytes()
    for length in (1, 20, 200, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.pt").write_bytes(data[:length])
        with pytest.raises(WeightsError, match=r"cut\.pt"):
            ipt_jax.load(str(tmp_path / "cut.pt"), heads=2)


def save_deflated(path: pathlib.Path) -> None:
    """Saves 400 MB of zeros as 400 KB, which torch.save does not do, but torch.load reads."""
    torch.save({"a": torch.zeros(100_000_000)}, path)
    with zipfile.ZipFile(path) as stored:
        entries = {name: stored.read(name) for name in stored.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as deflated:
        for name, data in entries.items():
            deflated.writestr(name, data)


HOSTILE = {
    "stride": (
        lambda: {"a": torch.zeros(1).expand(36_000, 100_000)},
        r"announce 14,400,000,000 bytes, which is more than the file has \([\d,]+\)",
    ),
    "meta": (lambda: {"a": torch.empty(9, device="meta")}, "a is a meta tensor"),
    "quantised": (
        lambda: {"a": torch.quantize_per_tensor(torch.zeros(9), 0.1, 0, torch.qint8)},
        "a is quantised",
    ),
    "sparse": (lambda: {"a": torch.eye(3).to_sparse()}, "a has the layout torch.sparse_coo"),
    "deflated": (None, "is compressed"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", HOSTILE)
def test_tensors_without_values_or_larger_than_their_file_are_refused_in_one_line(name, tmp_path):
    make, message = HOSTILE[name]
    path = tmp_path / "a.pt"
    if make is None:
        save_deflated(path)
    else:
        torch.save(make(), path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsError, match=message) as caught:
        ipt_jax.load(str(path))
    assert len(str(caught.value).splitlines()) == 1
    # In KiB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_a_dict_that_contains_itself_is_refused(tmp_path):
    content: dict = {}
    content["params"] = content
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"more than named tensors: params \(dict\)"):
        ipt_jax.load(str(tmp_path / "a.pt"))
