"""A run proves its storage before it trains, and never mixes with another run."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import jax
import pytest
from etils import epath
from limits import small_files
from training import arrays, assert_same, command, config, lines, make_photographs, wait_for_step

import ipt_jax
from ipt_jax.checkpoints.checkpoints import Checkpoints
from ipt_jax.distributed import sharding
from ipt_jax.errors import CheckpointError, ConfigError, LockLost, WeightsError
from ipt_jax.train.loop import pretrain
from ipt_jax.train.setup import prepare

pytest.importorskip("skimage", reason="needs scikit-image's photographs")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> pathlib.Path:
    return make_photographs(tmp_path_factory.mktemp("photographs"))


def at_batches(monkeypatch, action: Callable[[int], None]) -> None:
    """Calls `action` with the number of each batch, from 1, before its step."""
    put, count = sharding.put_batch, iter(range(1, 1_000_000))

    def put_batch(batch, mesh):
        action(next(count))
        return put(batch, mesh)

    monkeypatch.setattr(sharding, "put_batch", put_batch)


@pytest.fixture
def unchanged_cache() -> Iterator[None]:
    """Keeps programs that were cut off by a limit out of the tests' cache of compiled programs."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 1e9)
    yield
    jax.config.update(name, before)


def saved(workdir: pathlib.Path) -> list[int]:
    return Checkpoints(workdir / "checkpoints").steps()


@pytest.mark.usefixtures("unchanged_cache")
def test_storage_that_cannot_be_written_ends_the_run_before_it_trains(photographs, tmp_path):
    with small_files(), pytest.raises(CheckpointError) as error:
        pretrain(config(photographs, steps=2), str(tmp_path / "run"))
    assert re.search(
        r"checkpoint 0 could not be saved in .*File too large.*\nThe run has not started.*"
        r"start the same command again when the storage works",
        str(error.value),
        re.DOTALL,
    )
    assert not lines(tmp_path / "run") and not saved(tmp_path / "run")
    assert pretrain(config(photographs, steps=2), str(tmp_path / "run")).finished
    assert saved(tmp_path / "run") == [2]


@pytest.mark.slow
def test_storage_that_does_not_return_what_was_saved_ends_the_run(
    photographs, tmp_path, monkeypatch, caplog
):
    wait, flipped = Checkpoints.wait, []

    def wait_and_flip(self):
        wait(self)
        folder = tmp_path / "run" / "checkpoints" / "0" / "state" / "ocdbt.process_0" / "d"
        for file in folder.glob("*") if not flipped else ():
            flipped.append(file)
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(data)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "wait", wait_and_flip)
        with pytest.raises(CheckpointError, match=r"(?s)no usable checkpoint.*has not started"):
            pretrain(config(photographs, steps=2), str(tmp_path / "run"))
    assert not lines(tmp_path / "run") and not saved(tmp_path / "run")
    with caplog.at_level(logging.INFO):
        assert pretrain(config(photographs, steps=2), str(tmp_path / "run")).finished
    assert re.search(
        r"the storage works: the first state, \d+\.\d MB, was saved, restored and compared in "
        r"\d+\.\d s",
        caplog.text,
    )
    caplog.clear()
    # A resumed run has just restored a state.
    with caplog.at_level(logging.INFO):
        assert pretrain(config(photographs, steps=3), str(tmp_path / "run")).finished
    assert "the storage works" not in caplog.text


@pytest.mark.slow
def test_a_run_killed_after_the_proof_starts_again_and_has_no_weights_yet(
    photographs, tmp_path, monkeypatch
):
    class Killed(Exception):
        pass

    def kill(number: int) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        at_batches(patch, kill)
        pretrain(config(photographs, steps=3), str(tmp_path / "run"))
    assert saved(tmp_path / "run") == [0]
    with pytest.raises(WeightsError, match=r"there is no checkpoint in .* yet"):
        ipt_jax.load(tmp_path / "run")
    assert ipt_jax.load(f"{tmp_path / 'run'}@0").provenance["step"] == 0
    assert pretrain(config(photographs, steps=3), str(tmp_path / "run")).finished
    assert pretrain(config(photographs, steps=3), str(tmp_path / "whole")).finished
    assert saved(tmp_path / "run") == saved(tmp_path / "whole") == [3]
    assert_same(arrays(tmp_path / "run", 3), arrays(tmp_path / "whole", 3))


@pytest.mark.slow
@pytest.mark.usefixtures("unchanged_cache")
def test_saves_that_fail_in_a_row_end_the_run(photographs, tmp_path, monkeypatch, caplog):
    """Two failures, two good saves, and then nothing but failures."""
    save, limits = Checkpoints.save, {4, 5, *range(8, 13)}

    def limited_save(self, step, state, meta):
        with small_files() if step in limits else contextlib.nullcontext():
            save(self, step, state, meta)

    # In the background, a save would not know under which limit it is written.
    monkeypatch.setitem(Checkpoints.__init__.__kwdefaults__, "asynchronous", False)
    monkeypatch.setattr(Checkpoints, "save", limited_save)
    changes = {"steps": 12, "checkpoint": {"every": 1, "keep": 20, "max_failed": 3}}
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(
            CheckpointError,
            match=r"(?s)checkpoint 10 could not be saved .*File too large.*3 saves in a row "
            r"failed \(checkpoint.max_failed=3\).*the newest checkpoint is 7\.",
        ),
    ):
        pretrain(config(photographs, **changes), str(tmp_path / "run"))
    assert saved(tmp_path / "run") == [1, 2, 3, 6, 7]
    failed = re.findall(r"checkpoint (\d+) could not be saved", caplog.text)
    assert failed == ["4", "5", "8", "9"]


def test_a_checkpoint_of_another_run_is_refused_by_name(photographs, tmp_path, caplog):
    mine, other = tmp_path / "mine", tmp_path / "other"
    pretrain(config(photographs, steps=2), str(mine))
    pretrain(config(photographs, steps=4, seed=5), str(other))
    shutil.copytree(other / "checkpoints" / "4", mine / "checkpoints" / "4")
    before = (mine / "config.json").read_bytes()
    with pytest.raises(
        ConfigError, match=r"checkpoint 4 in .*mine/checkpoints .*--force-config:\n  seed: 5 -> 0$"
    ):
        pretrain(config(photographs, steps=5), str(mine))
    assert (mine / "config.json").read_bytes() == before and saved(mine) == [2, 4]
    with caplog.at_level(logging.WARNING):
        assert pretrain(config(photographs, steps=5), str(mine), force=True).step == 5
    assert "resumed with another config, as --force-config asks:\n  seed: 5 -> 0" in caplog.text


def test_a_run_that_began_between_the_check_and_the_lock_is_noticed(photographs, tmp_path):
    suspended = prepare(config(photographs, steps=2), str(tmp_path))
    pretrain(config(photographs, steps=2, seed=5), str(tmp_path))
    with pytest.raises(ConfigError, match=r"another config.*\n  seed: 5 -> 0"), suspended.locked():
        pass
    assert json.loads((tmp_path / "config.json").read_text())["config"]["seed"] == 5
    assert not (tmp_path / "lock").exists()


def take(workdir: pathlib.Path) -> None:
    """Does what another run does after someone has deleted the lock's file."""
    (workdir / "lock").unlink()
    (workdir / "lock").write_text(
        json.dumps({"host": "elsewhere", "pid": 7, "since": "noon", "id": "x"})
    )


@pytest.mark.parametrize(
    ("lose", "said"),
    [
        (take, r"was taken by another run \(process 7 on elsewhere, since noon\)"),
        (lambda workdir: (workdir / "lock").unlink(), "lock was deleted while this run trained"),
        (shutil.rmtree, "was deleted or moved while this run trained"),
    ],
    ids=["taken", "deleted", "gone"],
)
def test_a_run_that_loses_its_folder_stops_without_saving(
    photographs, tmp_path, monkeypatch, lose, said
):
    workdir = tmp_path / "run"

    def action(number: int) -> None:
        # The save at step 2 must not go on while the folder is removed.
        while number == 4 and saved(workdir) != [2]:
            time.sleep(0.05)
        if number == 4:
            lose(workdir)

    at_batches(monkeypatch, action)
    changes = {"steps": 9, "checkpoint": {"every": 2, "keep": 9}, "log": {"every": 1}}
    with pytest.raises(LockLost, match=said):
        pretrain(config(photographs, **changes), str(workdir))
    if lose is shutil.rmtree:
        # A folder that was deleted does not come back with half of a run in it.
        assert not workdir.exists()
    else:
        assert saved(workdir) == [2]
        assert (workdir / "lock").exists() == (lose is take)


@pytest.mark.slow
def test_a_signal_after_the_folder_is_gone_does_not_claim_to_have_saved(photographs, tmp_path):
    workdir = tmp_path / "run"
    run = command(photographs, workdir, tmp_path, "--config.steps=100000", "--config.log.every=1")
    process = subprocess.Popen(run, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_for_step(workdir, 3, process)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        workdir.rename(tmp_path / "moved")
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        said = process.communicate(timeout=120)[1]
    finally:
        process.kill()
        process.wait(60)
    assert process.returncode == 1, said
    assert f"ipt: {workdir} was deleted or moved while this run trained" in said
    assert "saved; start the same command again" not in said and "Traceback" not in said
    assert not workdir.exists()


WORST = "lr=[1,2] *?{a,b}%2F'\"#~\u00e9\u65e5\n" + "x" * 150


def test_a_workdir_of_any_name_can_be_resumed_and_loaded(photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for steps in (2, 4):
        assert pretrain(config(photographs, steps=steps), WORST).step == steps
    assert saved(tmp_path / WORST) == [2, 4]
    assert ipt_jax.load(WORST).provenance["step"] == 4
    assert ipt_jax.load(f"{WORST}@2").provenance["step"] == 2
    branch = config(photographs, steps=5, branch_from=f"{WORST}@4")
    assert pretrain(branch, "[branch]").step == 5
    assert sorted(os.listdir(tmp_path)) == sorted([WORST, "[branch]"])


def test_a_workdir_that_cannot_work_is_refused_before_anything_is_created(photographs, tmp_path):
    (tmp_path / "here").mkdir()
    run = command(photographs, pathlib.Path("a\\b"), tmp_path)
    done = subprocess.run(run, capture_output=True, text=True, cwd=tmp_path / "here", timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("ipt: workdir a\\b contains a backslash"), done.stderr
    assert not list(epath.Path(tmp_path / "here").iterdir())
