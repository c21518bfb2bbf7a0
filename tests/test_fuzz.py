"""Damaged and hostile files: for any bytes, a reader returns a result or raises a named error.

The files are mutants of intact files, drawn from a seed. `make test` reads 300 of each kind and
`make soak` 20,000.
"""

from __future__ import annotations

import io
import json
import pathlib
import resource
import sys
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import runs
from data_sets import jpeg
from PIL import Image

from ipt_jax import errors
from ipt_jax.config import loading as config
from ipt_jax.data.prepare.pack import pack
from ipt_jax.data.sources.packed import Packed
from ipt_jax.errors import RunError, UserError
from ipt_jax.images.decode import decode
from ipt_jax.model import IPT
from ipt_jax.restore.restorer import Restorer
from ipt_jax.weights import authors, task_names
from ipt_jax.weights import folder as weights_folder
from ipt_jax.weights import load as loading
from tests.weights.test_state_dict import MICRO, mindspore_file, mindspore_name, state_of

NAMED = (UserError, RunError)
# Bytes that a reader may allocate in addition to what the process has.
MEMORY = 3 * 2**30

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """Makes an intact file of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    model = IPT((("sr2", 2),), **MICRO)
    restorer = Restorer(
        model, runs.random_params(model, 0), {"sr2": task_names.task_from_name("sr2", 2)}, {}
    )
    authors.write_authors_file(restorer, folder / "w.safetensors", "safetensors")
    weights_folder.write_npz(restorer, folder / "w.npz")
    weights_folder.write_weights_folder(restorer, folder / "folder")
    ckpt = mindspore_file(
        {mindspore_name(k): v for k, v in state_of(restorer).items() if v.dtype == np.float32}
    )
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (40, 30, 3)).astype(np.uint8), (0, 0), 3)
    made = {
        f"weights.{kind}": (folder / f"w.{kind}").read_bytes() for kind in ("safetensors", "npz")
    }
    made |= {
        "weights.ckpt": ckpt,
        "model.json": (folder / "folder" / "model.json").read_bytes(),
        "picture.jpeg": jpeg(1),
    }
    for kind in ("png", "webp", "bmp", "tiff", "gif"):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, kind)
        made[f"picture.{kind}"] = buffer.getvalue()
    runs.make_run(folder / "run")
    made["config.json"] = (folder / "run" / "config.json").read_bytes()
    for i in range(3):
        (folder / f"{i}.jpg").write_bytes(jpeg(i))
    pack(str(folder), str(folder / "packed"), threads=1)
    for file in (folder / "packed").iterdir():
        made[f"packed{file.suffix}"] = file.read_bytes()
        made[f"name of packed{file.suffix}"] = file.name.encode()
    return made


def mutant(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns a file after one to eight changes.

    Bits are flipped; bytes are overwritten, deleted or repeated; the end is cut off.
    """
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        # Readers decide by headers, so half of the changes fall into the first 200 bytes.
        at = int(rng.integers(min(200, len(out)) if rng.random() < 0.5 else len(out)))
        length = int(rng.integers(1, 17))
        kind = rng.integers(6)
        if kind == 0:
            out[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            out[at : at + length] = rng.bytes(length)
        elif kind == 2:
            out[at : at + length] = bytes([int(rng.choice([0, 0x7F, 0xFF]))]) * length
        elif kind == 3:
            del out[at : at + length]
        elif kind == 4:
            out[at:at] = out[at : at + length]
        elif rng.random() < 0.3:
            del out[at:]
        if not out:
            out = bytearray(b"\0")
    return bytes(out)


def loader(kind: str, files: dict[str, bytes], folder: pathlib.Path) -> Callable[[bytes], object]:
    """Returns the function that reads a mutant of this kind."""
    if kind.startswith("picture."):
        return decode

    if kind.startswith("packed"):
        paths = {name: folder / files[f"name of {name}"].decode() for name in PACKED}

        def packed(data: bytes) -> object:
            for name in PACKED:
                paths[name].write_bytes(data if name == kind else files[name])
            source = Packed(folder)
            return [source[i] for i in range(len(source))], source.fingerprint()

        return packed

    path = folder / kind
    if kind.startswith("weights."):

        def weights(data: bytes) -> object:
            path.write_bytes(data)
            return loading.load(str(path), heads=2)

        return weights
    if kind == "model.json":
        (folder / "weights.safetensors").write_bytes(files["weights.safetensors"])

        def model(data: bytes) -> object:
            path.write_bytes(data)
            return weights_folder.read_weights_folder(folder)

        return model

    def run(data: bytes) -> object:
        path.write_bytes(data)
        return loading.load(str(folder))

    return run


def fuzz(kind: str, files: dict[str, bytes], folder: pathlib.Path, count: int) -> tuple[int, int]:
    """Returns how many of `count` mutants were refused and read; other errors fail the test."""
    load, refused, taken = loader(kind, files, folder), 0, 0
    for number in range(count):
        data = mutant(files[kind], np.random.default_rng([zlib.crc32(kind.encode()), number]))
        try:
            load(data)
            taken += 1
        except NAMED as error:
            assert str(error), number
            refused += 1
        except BaseException as error:
            raise AssertionError(
                f"mutant {number} of {kind}: {type(error).__name__}: {error}"
            ) from error
    return refused, taken


PACKED = ["packed.json", "packed.array_record"]
KINDS = [
    *PACKED,
    "weights.safetensors",
    "weights.npz",
    "weights.ckpt",
    "model.json",
    "config.json",
    "picture.jpeg",
    "picture.png",
    "picture.webp",
    "picture.bmp",
    "picture.tiff",
    "picture.gif",
]


@pytest.fixture
def little_memory():
    """Limits the memory, so that a reader that believes a length of 8 EB gets a MemoryError."""
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_300_mutants(kind, files, tmp_path, little_memory):
    refused, taken = fuzz(kind, files, tmp_path, 300)
    assert refused > 20 and refused + taken == 300


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_20000_mutants(kind, files, tmp_path, little_memory):
    fuzz(kind, files, tmp_path, 20_000)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "count",
    [pytest.param(300, marks=pytest.mark.slow), pytest.param(20_000, marks=pytest.mark.soak)],
)
@pytest.mark.timeout(3600)
def test_mutants_of_torch_files(count, files, tmp_path, request):
    pytest.importorskip("torch", reason="needs the extra torch")
    model = IPT((("sr2", 2),), **MICRO)
    restorer = Restorer(
        model, runs.random_params(model, 0), {"sr2": task_names.task_from_name("sr2", 2)}, {}
    )
    authors.write_authors_file(restorer, tmp_path / "whole.pt", "torch")
    # The limit is set after torch has allocated its own memory.
    request.getfixturevalue("little_memory")
    refused, taken = fuzz(
        "weights.pt", {"weights.pt": (tmp_path / "whole.pt").read_bytes()}, tmp_path, count
    )
    assert refused > count // 15 and refused + taken == count


@pytest.mark.parametrize(
    "text",
    [
        "",
        "def get_config(:",
        "x = 1",
        "def get_config():\n    return 3",
        "import nothing_such",
        "raise SystemExit(3)",
        "def get_config():\n    from ml_collections import ConfigDict\n    return "
        "ConfigDict({'steps': {'a': 1}})",
        "def get_config(x):\n    return x",
        "\0",
    ],
)
def test_config_files_that_are_none(tmp_path, text):
    (tmp_path / "c.py").write_text(text)
    with pytest.raises(errors.ConfigError, match=r"c\.py|steps"):
        config.load(str(tmp_path / "c.py"))


def test_a_description_with_paths_in_it_reads_nothing_else(files, tmp_path):
    """model.json names no files, so its content cannot make a reader leave its folder."""
    told = json.loads(files["model.json"])
    (tmp_path / "weights.safetensors").write_bytes(files["weights.safetensors"])
    for key in list(told):
        (tmp_path / "model.json").write_text(json.dumps({**told, key: "../../etc/passwd"}))
        try:
            weights_folder.read_weights_folder(tmp_path)
        except NAMED as error:
            assert "root:" not in str(error)
