"""Damaged files in a run's folder: the run resumes, or an error says what is wrong.

The files are mutants of intact ones, drawn from a seed. `make test` reads 300 in all and
`make soak` 20,000 of each kind.
"""

from __future__ import annotations

import json
import logging
import math
import pathlib
import shutil
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
import runs
import small
from data_sets import jpeg
from etils import epath
from ml_collections import ConfigDict

from ipt_jax.checkpoints.checkpoints import Checkpoints
from ipt_jax.cli.train import finetune_config
from ipt_jax.config.loading import complete
from ipt_jax.config.recorded import read_recorded
from ipt_jax.data.sources.folder import Folder
from ipt_jax.errors import ConfigError, RunError, UserError
from ipt_jax.export.model_card import collect_details
from ipt_jax.model import build
from ipt_jax.restore.restorer import Restorer
from ipt_jax.run_folder import folder as names
from ipt_jax.run_folder import lock
from ipt_jax.run_folder.best_record import best_step
from ipt_jax.run_folder.curves import save_curves
from ipt_jax.run_folder.metrics_log import MetricsLog
from ipt_jax.tasks import make_tasks
from ipt_jax.train.best_checkpoint import BestCheckpoint
from ipt_jax.train.identity import Run
from ipt_jax.weights.load import load
from tests.test_fuzz import mutant

FILES = (names.CONFIG, names.METRICS, names.BEST, names.LOCK)
# Version 0.1 wrote these without a checksum.
OLD = tuple(f"{name} of v0.1" for name in (names.CONFIG, names.BEST))
KINDS = FILES + OLD
BEST = {"best": "psnr_y", "patience": 0}
STEPS = (5, 10, 15, 20)
SCORES = [(5, 25.5), (10, 27.25), (15, 26.0), (20, 28.0)]


def config() -> ConfigDict:
    base = {
        "model": small.MODEL,
        "optim": small.OPTIM,
        "tasks": ["sr2", "denoise50"],
        "batch_size": 32,
        "steps": 20,
        "data": {"source": "embedded"},
        "evaluate": BEST,
    }
    return complete(base)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Folder:
    folder = tmp_path_factory.mktemp("images")
    for i in range(3):
        (folder / f"{i}.jpg").write_bytes(jpeg(i))
    return Folder(folder)


@pytest.fixture(scope="module")
def intact(tmp_path_factory, source) -> epath.Path:
    """The folder of a run with two checkpoints, and metrics of four reports and evaluations."""
    folder = epath.Path(tmp_path_factory.mktemp("run"))
    run = Run.open(folder, config(), source)
    run.begin()
    with Checkpoints(folder / names.CHECKPOINTS, asynchronous=False) as checkpoints:
        for step in (10, 20):
            checkpoints.save(step, {"params": {"kernel": jnp.ones(3)}}, run.meta())
    log = MetricsLog(folder, 0, False, False, True)
    best = BestCheckpoint.open(folder, BEST, 0)
    for step, value in SCORES:
        log.write(step, {"loss": 30.0 / step, "l1/sr2": 12.5, "lr": 1e-4, "wait": math.nan})
        scores = {"sr2": {"psnr_y": value}, "denoise50": {"psnr_y": value}}
        values = {f"held_out/{task}/psnr_y": value for task in scores}
        log.write(step, values, "evaluation")
        best.add(step, scores)
    log.close()
    (folder / names.LOCK).write_text(
        '{"host": "a", "pid": 3, "since": "2026-01-01T00:00:00", "id": "f00d"}'
    )
    return folder


@pytest.fixture
def folder(intact, tmp_path) -> epath.Path:
    """A copy of the run's folder."""
    return epath.Path(shutil.copytree(intact, tmp_path / "run"))


def original(kind: str, intact: epath.Path) -> tuple[str, bytes]:
    """Returns the name of a file and its intact content."""
    name = kind.removesuffix(" of v0.1")
    data = (intact / name).read_bytes()
    if name != kind:
        content = json.loads(data)
        del content["checksum"]
        data = json.dumps(content, indent=1).encode()
    return name, data


def resume(folder: epath.Path, source: Folder, draw: bool) -> tuple[Run, BestCheckpoint, list]:
    """Reads a run's folder as a run does that resumes it at step 15, and as an export does."""
    wanted = config()
    restorer = Restorer(build(wanted.model.to_dict(), make_tasks(["sr2"])), {}, {}, {})
    with lock.hold(folder):
        collect_details(str(folder), restorer)
        run = Run.open(folder, wanted, source)
        run.begin()
        best = BestCheckpoint.open(folder, BEST, 15)
        log = MetricsLog(folder, 15, False, False, True)
        log.write(16, {"loss": 1.5})
        lines = log.lines()
        log.close()
        # Drawing takes longer than all else.
        if draw:
            save_curves(folder / names.CURVES, lines)
    return run, best, lines


def fuzz(kind: str, folder: epath.Path, intact: epath.Path, source: Folder, count: int) -> None:
    """Reads mutants of a file. A named error is raised for old formats only."""
    name, data = original(kind, intact)
    refused = 0
    for number in range(count):
        for one in FILES:
            (folder / one).write_bytes((intact / one).read_bytes())
        rng = np.random.default_rng([zlib.crc32(kind.encode()), number])
        (folder / name).write_bytes(mutant(data, rng))
        try:
            run, best, lines = resume(folder, source, draw=number % 60 == 0)
        except (UserError, RunError) as error:
            assert str(error) and kind in OLD, (number, error)
            refused += 1
            continue
        except BaseException as error:
            raise AssertionError(
                f"mutant {number} of {kind}: {type(error).__name__}: {error}"
            ) from error
        assert (folder / names.CONFIG).read_bytes() == (intact / names.CONFIG).read_bytes()
        assert run.config == read_recorded(intact)["config"]
        assert lines[-1] == {"step": 16, "loss": 1.5} and all(x["step"] <= 16 for x in lines)
        if kind not in OLD:
            assert best.seen == SCORES[:3]
            # Without the metric's name, only an intact file has a best step.
            assert best_step(folder) == 10
        if kind != names.METRICS:
            assert [line["step"] for line in lines] == [5, 5, 10, 10, 15, 15, 16]
    assert refused < count or kind in OLD


@pytest.mark.parametrize("kind", KINDS)
def test_50_mutants(kind, folder, intact, source):
    fuzz(kind, folder, intact, source, 50)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_20000_mutants(kind, folder, intact, source):
    fuzz(kind, folder, intact, source, 20_000)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[1]",
        b"{}",
        b"\xff\xfe",
        b'{"config": 3, "data": {}}',
        b'{"config": {"model": {}, "optim": {}}, "data": []}',
        b'{"config": {"model": 3, "optim": {}}, "data": {}}',
        b'{"config": {"optim": {}}, "data": {}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_config_is_replaced_by_the_checkpoints_record(data, folder, intact, caplog):
    (folder / names.CONFIG).write_bytes(data)
    with caplog.at_level(logging.WARNING):
        record = read_recorded(folder)
    assert record["config"] == read_recorded(intact)["config"]
    assert record["data"] == read_recorded(intact)["data"]
    assert "config.json is damaged" in caplog.text
    assert "the record of checkpoint 20 is used" in caplog.text
    # The record of a damaged checkpoint is not used.
    meta = folder / names.CHECKPOINTS / "20" / "meta" / "data.json"
    meta.write_bytes(meta.read_bytes().replace(b"seed", b"sead"))
    assert read_recorded(folder)["config"] == record["config"]
    assert "the record of checkpoint 10 is used" in caplog.text
    shutil.rmtree(folder / names.CHECKPOINTS)
    with pytest.raises(ConfigError, match=r"is not a run's config \(.*\), and no checkpoint"):
        read_recorded(folder)


def test_other_commands_read_a_run_whose_config_is_damaged(tmp_path, caplog):
    runs.make_run(tmp_path / "run", steps=(1,))
    (tmp_path / "run" / "config.json").write_bytes(b'{"config": {"tasks"')
    loaded = load(str(tmp_path / "run"))
    assert loaded.model.features == small.MODEL["features"] and "is damaged" in caplog.text
    assert collect_details(str(tmp_path / "run"), loaded).config["batch_size"] == 32
    file = pathlib.Path(tmp_path / "config.py")
    file.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict({'tasks': ['sr2'], 'data': {'source': 'embedded'}})\n"
    )
    resumed = finetune_config(str(file), ["batch_size=8"], str(tmp_path / "run"))
    assert resumed.model.features == small.MODEL["features"]
