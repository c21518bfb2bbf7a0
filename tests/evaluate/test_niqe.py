"""NIQE: against BasicSR's code and parameters, and in `ipt evaluate`."""

from __future__ import annotations

import importlib
import json
import os
import pathlib
import sys
import types

import cv2
import numpy as np
import pytest
import textures

from ipt_jax.errors import UsageError
from ipt_jax.evaluate.niqe import FEATURES, Niqe
from ipt_jax.metrics import rgb_to_y
from tests.evaluate.test_benchmark import evaluate
from tests.evaluate.test_sets import put

# The folder of BasicSR 1.4.2's source distribution: pip download --no-binary :all: basicsr==1.4.2
KEYS = ("mu_pris_param", "cov_pris_param", "gaussian_window")
BASICSR = pathlib.Path(os.environ.get("IPT_TEST_DATA", "/none")) / "basicsr-1.4.2"


def natural(seed: int, height: int, width: int) -> np.ndarray:
    """Returns an image with texture at all scales, uint8 `[height, width, 3]`."""
    rng = np.random.default_rng(seed)
    image = textures.picture(seed, height, width).astype(np.float64)
    for size in (8, 32, 128):
        noise = rng.normal(0, 20, (size, size, 3))
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture
def params(tmp_path) -> str:
    """Writes parameters of no particular photographs."""
    path = tmp_path / "niqe.npz"
    mean = np.linspace(0.5, 2, FEATURES)[None]
    np.savez(path, mu_pris_param=mean, cov_pris_param=np.eye(FEATURES) * 0.1)
    return str(path)


@pytest.fixture(scope="module")
def theirs():
    """Returns BasicSR's module of NIQE, with as little of the package around it as possible."""
    if not BASICSR.is_dir():
        pytest.skip(f"needs BasicSR 1.4.2's source distribution in $IPT_TEST_DATA: {BASICSR}")
    pytest.importorskip("torch", reason="BasicSR's code needs torch")
    before = dict(sys.modules)
    for name, folder in (
        ("basicsr", "basicsr"),
        ("basicsr.metrics", "basicsr/metrics"),
        ("basicsr.utils", "basicsr/utils"),
    ):
        package = types.ModuleType(name)
        package.__path__ = [str(BASICSR / folder)]
        sys.modules[name] = package

    class Registry:
        def register(self):
            return lambda function: function

    registry = types.ModuleType("basicsr.utils.registry")
    registry.METRIC_REGISTRY = Registry()
    sys.modules["basicsr.utils.registry"] = registry
    sys.modules["basicsr.utils"].bgr2ycbcr = None
    colour = importlib.import_module("basicsr.utils.color_util")
    sys.modules["basicsr.utils"].bgr2ycbcr = colour.bgr2ycbcr
    yield importlib.import_module("basicsr.metrics.niqe")
    for name in set(sys.modules) - set(before):
        if name.startswith("basicsr"):
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize("seed, height, width", [(0, 240, 300), (1, 192, 97), (2, 321, 481)])
def test_the_score_is_that_of_basicsr(theirs, seed, height, width):
    path = next(BASICSR.rglob("niqe_pris_params.npz"))
    ours, params = Niqe(path), np.load(path)
    image = natural(seed, height, width)
    blurred = cv2.GaussianBlur(image, (0, 0), 1.5)
    for each in (image, blurred):
        wanted = theirs.calculate_niqe(np.ascontiguousarray(each[..., ::-1]), crop_border=0)
        # Theirs computes in float32, which rounds some pixels of the luma another way.
        assert ours(each) == pytest.approx(wanted, rel=1e-3)
        luma = np.round(rgb_to_y(each))
        exact = theirs.niqe(luma, *(params[key] for key in KEYS))
        assert ours(each) == pytest.approx(exact, abs=1e-3)


def test_images_without_two_blocks_of_texture_have_no_score(params):
    score = Niqe(params)
    assert np.isnan(score(natural(0, 191, 191)))
    assert np.isnan(score(np.full((192, 192, 3), 7, np.uint8)))
    image = natural(0, 192, 200)
    assert score(image) > 0
    # What is beyond the blocks does not count.
    assert score(image) == score(image[:, :192])


@pytest.mark.parametrize("what", ["missing", "text", "empty", "shape"])
def test_files_without_the_parameters_are_refused(what, tmp_path):
    path = tmp_path / "x.npz"
    if what == "text":
        path.write_text("no archive")
    if what == "empty":
        np.savez(path, a=np.zeros(3))
    if what == "shape":
        np.savez(path, mu_pris_param=np.zeros(3), cov_pris_param=np.eye(3))
    with pytest.raises(UsageError, match="--niqe"):
        Niqe(path)


def test_a_column_in_table_json_and_report(params, tmp_path, capsys):
    for seed, side in ((0, 200), (1, 230), (2, 60)):
        put(tmp_path / "data" / f"{seed}.png", image=natural(seed, side, 200))
    words = ["--weights", "input", "--data", str(tmp_path / "data"), "--tasks", "denoise30"]
    words += ["--niqe", params]
    out = ["--json", str(tmp_path / "a.json"), "--report", str(tmp_path / "a.html")]
    assert evaluate(*words, *out) == 0
    said = capsys.readouterr().out
    assert "NIQE" in said and "too small for NIQE, and left out of its mean: 2" in said
    (row,) = json.loads((tmp_path / "a.json").read_text())["rows"]
    scores = [each["result"]["niqe"] for each in row["scores"]]
    assert scores[2] is None and row["result"]["niqe"] == pytest.approx(np.mean(scores[:2]))
    assert row["standard_error"]["result"]["niqe"] > 0 and row["gain"]["niqe"] == 0
    page = (tmp_path / "a.html").read_text()
    assert "NIQE (lower is better)" in page and f"{scores[0]:.2f}" in page
    # The same in parts.
    for number in (1, 2):
        part = ["--json", str(tmp_path / f"p{number}.json"), "--shard", f"{number}/2"]
        assert evaluate(*words, *part) == 0
    parts = [str(tmp_path / f"p{number}.json") for number in (1, 2)]
    assert evaluate("--merge", *parts, "--json", str(tmp_path / "m.json")) == 0
    (merged,) = json.loads((tmp_path / "m.json").read_text())["rows"]
    assert {**merged, "seconds": 0} == {**row, "seconds": 0}
