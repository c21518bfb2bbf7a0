"""spandrel, with which chaiNNer and ComfyUI load models, computes what we compute."""

from __future__ import annotations

import logging
import sys
from types import ModuleType
from unittest import mock

import golden
import numpy as np
import pytest

from ipt_jax.model import IPT
from ipt_jax.restore.restorer import Restorer
from ipt_jax.tasks import TASKS
from ipt_jax.weights import authors
from ipt_jax.weights.tensor_files import read_tensor_file

# A size that is no multiple of the stride: all strips of the published procedure are used.
SIZE = (61, 70)


def restorer(heads: int, tasks: tuple[str, ...]) -> Restorer:
    """Returns a network of 2 + 2 layers with random weights, and the tiles of the paper."""
    network = IPT(
        tuple((name, TASKS[name].scale) for name in tasks),
        features=8,
        heads=heads,
        encoder_layers=2,
        decoder_layers=2,
        hidden=288,
    )
    return Restorer(network, golden.params(network, 0), {name: TASKS[name] for name in tasks}, {})


@pytest.fixture(scope="module")
def spandrel() -> ModuleType:
    """Returns the package, also where torchvision is built for another torch than the one here.

    spandrel takes two functions from torchvision, for other architectures.
    """
    pytest.importorskip("torch", reason="needs the extra torch")
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
        with mock.patch.dict(sys.modules, dict.fromkeys(names, mock.MagicMock())):
            return pytest.importorskip("spandrel", reason="needs the extra spandrel")
    return pytest.importorskip("spandrel", reason="needs the extra spandrel")


def run(spandrel: ModuleType, path, image: np.ndarray) -> np.ndarray:
    """Restores an image `[H, W, 3]` in 0..255 with spandrel, whose result it clips."""
    import torch

    model = spandrel.ModelLoader("cpu").load_from_file(path)
    with torch.inference_mode():
        out = model(torch.from_numpy(image.transpose(2, 0, 1)[None] / 255))
    return out[0].numpy().transpose(1, 2, 0) * 255


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["safetensors", "torch"])
@pytest.mark.parametrize(
    "tasks, largest", [(("sr2",), "sr2"), (("denoise50",), "denoise50"), (("sr2", "sr3"), "sr3")]
)
def test_twelve_heads_agree(spandrel, tmp_path, caplog, kind, tasks, largest):
    """Of several tasks, spandrel runs the one with the largest scale."""
    one = restorer(12, tasks)
    path = tmp_path / {"torch": "x.pt", "safetensors": "x.safetensors"}[kind]
    authors.write_authors_file(one, path, kind)
    assert "attention heads" not in caplog.text
    image = np.random.default_rng(1).integers(0, 256, (*SIZE, 3)).astype(np.float32)
    ours = np.clip(one.restore(image, largest, protocol="official"), 0, 255)
    assert np.abs(run(spandrel, path, image) - ours).max() < 1e-3
    # The numbers say something: most are inside the range to which spandrel clips.
    assert ((ours > 0) & (ours < 255)).mean() > 0.5


@pytest.mark.slow
def test_three_heads_are_computed_as_twelve(spandrel, tmp_path):
    """When this fails, spandrel has learned the number of heads, and the warning can go."""
    one = restorer(3, ("sr2",))
    authors.write_authors_file(one, tmp_path / "x.safetensors", "safetensors")
    image = np.random.default_rng(1).integers(0, 256, (*SIZE, 3)).astype(np.float32)
    ours = np.clip(one.restore(image, "sr2", protocol="official"), 0, 255)
    assert np.abs(run(spandrel, tmp_path / "x.safetensors", image) - ours).max() > 1


@pytest.mark.parametrize("heads", [3, 12])
def test_other_numbers_of_heads_are_warned_about_and_stored(tmp_path, caplog, heads):
    with caplog.at_level(logging.WARNING, "ipt_jax"):
        authors.write_authors_file(restorer(heads, ("sr2",)), tmp_path / "x", "safetensors")
    words = f"these weights have {heads} attention heads"
    assert [words in record.getMessage() for record in caplog.records] == [True] * (heads != 12)
    assert all("\n" not in record.getMessage() for record in caplog.records)
    assert f"num_heads={heads}" in caplog.text or heads == 12
    assert read_tensor_file(tmp_path / "x").hints["heads"] == str(heads)


@pytest.mark.slow
def test_a_torch_file_stores_the_heads_where_strict_loading_ignores_them(tmp_path):
    torch = pytest.importorskip("torch", reason="needs the extra torch")
    from torch_ipt import TorchIPT

    one = restorer(3, ("sr2",))
    authors.write_authors_file(one, tmp_path / "x.pt", "torch")
    state = torch.load(tmp_path / "x.pt", weights_only=True)
    assert state._metadata[""]["ipt_jax"]["heads"] == "3"
    TorchIPT(one.model).load_state_dict(state, strict=True)
