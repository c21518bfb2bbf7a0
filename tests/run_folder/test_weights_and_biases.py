"""Metrics at Weights & Biases: the id, failures, and wandb itself in its offline mode."""

from __future__ import annotations

import importlib.util
import itertools
import logging
import pathlib
import sys
import types
from collections.abc import Iterator

import numpy as np
import pytest
import small
from etils import epath

from ipt_jax.run_folder.metrics_log import MetricsLog, read_run_lines

THERE = importlib.util.find_spec("wandb") is not None


class Stub(types.ModuleType):
    """Stands for the package wandb, and counts what it is given."""

    def __init__(self, fails: str = ""):
        super().__init__("wandb")
        self.began: list[dict] = []
        self.logged: list[dict] = []
        self.finished, self.fails = 0, fails
        self.Settings = dict
        self.Image = lambda picture: ("image", picture.shape)

    def init(self, **words: object) -> Stub:
        if self.fails == "init":
            raise OSError("no network")
        self.began.append(words)
        return self

    def define_metric(self, *_: object, **__: object) -> None:
        return None

    def log(self, values: dict) -> None:
        if self.fails == "log":
            raise RuntimeError("the service is gone")
        self.logged.append(values)

    def finish(self, exit_code: int) -> None:
        self.finished += 1
        if self.fails == "finish":
            raise RuntimeError("no network")


def make_log(tmp_path, active: bool = True, project: str = "p") -> MetricsLog:
    config = small.config(f"log.wandb={project}")
    return MetricsLog(epath.Path(tmp_path), 0, False, False, active, config)


def test_a_resumed_run_keeps_its_id(tmp_path, monkeypatch):
    stub = Stub()
    monkeypatch.setitem(sys.modules, "wandb", stub)
    for step in (1, 2):
        log = make_log(tmp_path)
        log.write(step, {"loss": 0.5})
        log.picture(step, "before_after", np.zeros((4, 5, 3), np.uint8))
        log.close()
    assert len(stub.began) == 2
    first, second = stub.began
    assert first["id"] == second["id"] and first["resume"] == "allow" and first["project"] == "p"
    rates = [v for name, v in first["config"].items() if name.startswith("optim") and v == 1e-3]
    assert rates
    assert stub.logged[0] == {"step": 1, "loss": 0.5} and stub.finished == 2
    assert stub.logged[1] == {"step": 1, "before_after": ("image", (4, 5, 3))}


@pytest.mark.parametrize("fails", ["init", "log", "finish", "import"])
def test_a_failure_is_one_warning_and_the_run_goes_on(fails, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None if fails == "import" else Stub(fails))
    with caplog.at_level(logging.WARNING):
        log = make_log(tmp_path)
        for step in range(1, 4):
            log.write(step, {"loss": 0.5})
        log.close()
    assert caplog.text.count("the run goes on") == (fails != "finish")
    assert [line["step"] for line in read_run_lines(epath.Path(tmp_path))] == [1, 2, 3]


def test_other_processes_and_other_runs_send_nothing(tmp_path, monkeypatch):
    stub = Stub()
    monkeypatch.setitem(sys.modules, "wandb", stub)
    for active, project in ((False, "p"), (True, "")):
        log = make_log(tmp_path, active, project)
        log.write(1, {"loss": 0.5})
        log.close()
    assert not stub.began and not (tmp_path / "wandb.json").exists()


@pytest.mark.slow
@pytest.mark.skipif(not THERE, reason="needs wandb: pip install 'ipt_jax[wandb]'")
def test_wandb_itself_takes_the_metrics(tmp_path, monkeypatch, caplog):
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    for step in (5, 6):
        log = make_log(tmp_path)
        log.write(step, {"loss": step / 2})
        log.picture(step, "before_after", np.zeros((4, 5, 3), np.uint8))
        log.close()
    assert "the run goes on" not in caplog.text
    # wandb.finish returns when all is in the files.
    files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    ids, losses = set(), []
    for data in itertools.chain(*map(records, files)):
        record = wandb_internal_pb2.Record.FromString(data)
        if record.HasField("run"):
            ids.add(record.run.run_id)
        for item in record.history.item:
            if "loss" in (item.key, *item.nested_key):
                losses.append(float(item.value_json))
    assert len(ids) == 1 and losses == [2.5, 3.0]


def records(file: pathlib.Path) -> Iterator[bytes]:
    """Yields the records of a .wandb file, which has the format of LevelDB's log."""
    data, at, held = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = -at % 32768
        if 0 < left < 7:
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        held += data[at + 7 : at + 7 + size]
        at += 7 + size
        # Complete, or the last part.
        if kind in (1, 4):
            yield held
            held = b""
