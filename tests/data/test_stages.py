"""The hook for timing the stages of the pipeline: complete, disjoint, and without influence."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
from collections import Counter
from collections.abc import Iterator

import pytest
from data_sets import Noisy, batches, digest, jpeg

from ipt_jax.data.sources.folder import Folder
from ipt_jax.data.sources.pairs import Pairs
from ipt_jax.data.stages import STAGES, untimed
from ipt_jax.tasks import make_tasks


class Recorder:
    """Counts stages, and fails when one begins within another."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.inside = ""

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        assert not self.inside, f"{name} began within {self.inside}"
        self.inside = name
        self.counts[name] += 1
        try:
            yield
        finally:
            self.inside = ""


@pytest.mark.parametrize("tasks", [["sr2", "derain"], ["jpeg", "photo2"]], ids="-".join)
def test_every_stage_is_run_and_the_batch_does_not_change(tmp_path, tasks):
    for i in range(4):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(i))
    which = batches(Folder(tmp_path), tasks=tasks, batch_size=8, crops=2, flips=True)
    recorder = Recorder()
    timed = dataclasses.replace(which, stage=recorder.stage)
    assert digest(timed(3).batch) == digest(which(3).batch)
    # Two images, two tasks, two crops of each.
    assert tuple(sorted(recorder.counts)) == tuple(sorted(STAGES))
    assert recorder.counts["read"] == recorder.counts["decode"] == 2
    assert recorder.counts["degrade"] == 8
    assert recorder.counts["batch"] == 1 + 8
    assert not recorder.inside


def test_pairs_have_no_degradation(tmp_path):
    for folder in ("input", "target"):
        (tmp_path / folder).mkdir()
        for i in range(3):
            (tmp_path / folder / f"{i}.jpg").write_bytes(jpeg(i))
    (task,) = make_tasks([{"name": "d", "degradation": "pairs", "scale": 1}])
    recorder = Recorder()
    which = dataclasses.replace(
        batches(Pairs(tmp_path), tasks=["denoise30"], batch_size=2),
        tasks=(task,),
        stage=recorder.stage,
    )
    which(0)
    assert recorder.counts == {"batch": 3, "read": 2, "decode": 2, "crop": 2}


def test_a_stage_ends_when_its_work_fails():
    recorder = Recorder()
    which = dataclasses.replace(batches(Noisy(4, broken=[1]), tasks=["sr2"]), stage=recorder.stage)
    assert any(which(step).replaced for step in range(4))
    assert not recorder.inside


def test_without_a_timer_batches_stay_picklable_and_equal():
    source = Noisy(4)
    which = batches(source)
    assert pickle.loads(pickle.dumps(which)).stage is untimed
    assert which == dataclasses.replace(which, stage=Recorder().stage)
    assert untimed("read") is untimed("crop")
