"""Checkpoints: a restored state is what was saved, or an error says why not."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import places
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from limits import small_files

from ipt_jax.checkpoints.checkpoints import Checkpoints
from ipt_jax.checkpoints.fingerprints import fingerprints
from ipt_jax.errors import CheckpointError

many_devices = pytest.mark.skipif(len(jax.devices()) < 8, reason="needs 8 devices")


@flax.struct.dataclass
class State:
    """A state as trainers have it: parameters, optax's tuples, an EMA or None, counters."""

    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any
    counters: Any


def make_state(seed: int, *, ema: bool = False, size: int = 64) -> State:
    keys = jax.random.split(jax.random.key(seed), 2)
    params = {
        "body": {
            "kernel": jax.random.normal(keys[0], (size, 24)),
            "bias": jnp.full((24,), seed, jnp.bfloat16),
        },
        "tails": {"sr2": {"kernel": jax.random.normal(keys[1], (3, 3, 4))}},
    }
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    moved = jax.tree.map(lambda x: x * 0.1, params)
    _, opt_state = optimiser.update(moved, optimiser.init(params), params)
    return State(
        step=jnp.int32(seed),
        params=params,
        opt_state=opt_state,
        ema=jax.tree.map(lambda x: x * 0.5, params) if ema else None,
        counters={
            "skipped": jnp.uint32(seed),
            "seen": (jnp.arange(3) > 1, jnp.int8(-seed)),
            "none": jnp.zeros((0, 3)),
        },
    )


def bits(tree: Any) -> list[tuple[str, Any, bytes]]:
    return [(str(x.dtype), x.shape, np.asarray(x).tobytes()) for x in jax.tree.leaves(tree)]


def assert_same(found: Any, wanted: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    assert bits(found) == bits(wanted)


def files_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def listing(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in files_of(folder)
    }


def save_all(folder: Path, *steps: int, **options: Any) -> None:
    with Checkpoints(folder, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), {"config": {"seed": step}})


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with steps 1 and 2; tests must not change it."""
    folder = tmp_path_factory.mktemp("two") / "checkpoints"
    save_all(folder, 1, 2)
    return folder


@pytest.fixture
def copy(two: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two, tmp_path / "checkpoints"))


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_round_trip_is_bit_exact(tmp_path: Path, ema: bool, asynchronous: bool) -> None:
    state = make_state(3, ema=ema)
    meta = {
        "config": {"tasks": ["sr2"], "lr": 1e-4, "init_from": None},
        "versions": {"jax": jax.__version__},
    }
    with Checkpoints(tmp_path / "c", asynchronous=asynchronous) as checkpoints:
        checkpoints.save(7, state, meta)
        if not asynchronous:
            assert (tmp_path / "c" / "7").is_dir()
    abstract = jax.eval_shape(lambda: state)
    for target in (abstract, state):
        restored, found = Checkpoints(tmp_path / "c").restore(target)
        assert_same(restored, state)
        assert found == {**meta, "step": 7}


def test_special_values_keep_their_bits(tmp_path: Path) -> None:
    words = np.array(
        [0x7FC00001, 0xFFC12345, 0x7F800000, 0x80000000, 0x00000001, 0x7F812345], np.uint32
    )
    state = {"x": jax.lax.bitcast_convert_type(jnp.asarray(words), jnp.float32)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, state, {})
        checkpoints.wait()
        restored, _ = checkpoints.restore(state)
    assert np.asarray(restored["x"]).view(np.uint32).tolist() == words.tolist()


def test_only_a_part_can_be_restored(tmp_path: Path) -> None:
    plain, averaged = make_state(1), make_state(2, ema=True)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, plain, {"a": 1})
        checkpoints.save(2, averaged, {"a": 2})
        checkpoints.wait()
        for step, which, part, wanted in (
            (None, ("ema", "params"), "ema", averaged.ema),
            (1, ("ema", "params"), "params", plain.params),
            (2, "params", "params", averaged.params),
        ):
            found, meta = checkpoints.restore_params(which, step=step)
            assert_same(found, wanted)
            assert all(
                isinstance(x, np.ndarray) and x.flags.writeable for x in jax.tree.leaves(found)
            )
            assert meta == {"a": step or 2, "step": step or 2, "part": part}
        with pytest.raises(
            CheckpointError, match=r"no ema, only counters, opt_state, params, step"
        ):
            checkpoints.restore_params(("ema",), step=1)


@many_devices
@pytest.mark.parametrize("count", [1, 2, 8])
def test_saved_on_four_devices_restored_on_others(tmp_path: Path, count: int) -> None:
    def shardings(devices: int) -> Callable[[Any], NamedSharding]:
        mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
        return lambda x: NamedSharding(
            mesh, PartitionSpec("data") if x.ndim and x.shape[0] % devices == 0 else PartitionSpec()
        )

    state = make_state(5)
    sharded = jax.tree.map(lambda x: jax.device_put(x, shardings(4)(x)), state)
    assert fingerprints(jax.tree.leaves(sharded)) == fingerprints(jax.tree.leaves(state))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, sharded, {})
    where = shardings(count)
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where(x)), state
    )
    restored, _ = Checkpoints(tmp_path).restore(target)
    assert_same(restored, state)
    assert all(x.sharding == where(x) for x in jax.tree.leaves(restored))


def test_state_may_be_donated_right_after_save(tmp_path: Path) -> None:
    scribble = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        for step in range(3):
            state = {
                "big": jax.random.normal(jax.random.key(step), (1 << 20,)),
                "small": jnp.int32(step + 5),
            }
            wanted = bits(state)
            checkpoints.save(step, state, {})
            for _ in range(3):
                state = scribble(state)
            checkpoints.wait()
            restored, _ = checkpoints.restore(jax.eval_shape(lambda state=state: state))
            assert bits(restored) == wanted


def test_meta_is_read_without_starting_devices(two: Path) -> None:
    code = (
        "from ipt_jax.checkpoints.checkpoints import Checkpoints\n"
        f"checkpoints = Checkpoints({str(two)!r})\n"
        "print(checkpoints.latest(), checkpoints.read_meta())"
    )
    done = run_python(code, JAX_PLATFORMS="no_such_platform")
    assert done.stdout.strip() == "2 {'config': {'seed': 2}, 'step': 2}"


def test_keeps_the_last_and_every_nth(tmp_path: Path) -> None:
    save_all(tmp_path, 1, 2, 3, 4, keep=2, keep_every=3)
    assert Checkpoints(tmp_path).steps() == [3, 4]
    save_all(tmp_path, 5, 6, 7, 8, keep=2, keep_every=3)
    assert Checkpoints(tmp_path).steps() == [3, 6, 7, 8]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "6", "7", "8"]


def test_a_step_that_exists_is_left_alone(copy: Path) -> None:
    before = listing(copy)
    with Checkpoints(copy) as checkpoints:
        checkpoints.save(2, make_state(99), {})
    assert listing(copy) == before


def test_going_on_from_an_older_step_keeps_the_new_one(tmp_path: Path) -> None:
    save_all(tmp_path, 10, 20, 30, keep=3)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.restore(make_state(0), step=10)
        checkpoints.save(15, make_state(15), {})
        checkpoints.wait()
        assert 15 in checkpoints.steps()


def test_a_folder_is_only_made_by_saving(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "typo")
    assert checkpoints.latest() is None
    assert checkpoints.steps() == []
    for read in (
        lambda: checkpoints.restore(make_state(0)),
        checkpoints.read_meta,
        checkpoints.restore_params,
    ):
        with pytest.raises(CheckpointError, match=r"there is no checkpoint in .*typo"):
            read()
    checkpoints.close()
    assert not (tmp_path / "typo").exists()


def test_steps_asked_for_by_number(two: Path) -> None:
    checkpoints = Checkpoints(two)
    assert_same(checkpoints.restore(make_state(0), step=1)[0], make_state(1))
    with pytest.raises(CheckpointError, match=r"no checkpoint 7 .*there are: 1, 2"):
        checkpoints.restore(make_state(0), step=7)


def test_a_target_that_differs_is_told_every_leaf(
    two: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = make_state(0)
    del state.params["tails"]
    state.params["head"] = jnp.ones((2, 2))
    state.params["body"]["bias"] = jnp.ones((24,), jnp.float32)
    state = state.replace(step=jnp.ones((1,), jnp.int32))
    with pytest.raises(CheckpointError) as error:
        Checkpoints(two).restore(state)
    assert {line.strip() for line in str(error.value).splitlines()[1:]} == {
        "missing: params/head float32[2, 2]",
        "unexpected: params/tails/sr2/kernel float32[3, 3, 4]",
        "differs: params/body/bias was saved as bfloat16[24], but float32[24] is wanted",
        "differs: step was saved as int32[], but int32[1] is wanted",
    }
    assert not caplog.records, "a mistake is not damage"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {"x": np.ones(2)}, "b": 3}, "not jax arrays: a/x, b"),
        ({"rng": jax.random.key(0)}, r"cannot be stored: rng \(key"),
        ({"a.b": jnp.ones(1), "a": {"b": jnp.ones(1)}}, "under these names"),
        ({"a/b": jnp.ones(1)}, "under these names: a/b"),
        ({"a": None}, "no leaves"),
    ],
)
def test_what_cannot_be_saved_is_refused(tmp_path: Path, state: Any, message: str) -> None:
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(CheckpointError, match=message):
        checkpoints.save(1, state, {})
    assert not (tmp_path / "c").exists()


def test_meta_comes_back_as_json(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(
            1, {"x": jnp.ones(1)}, {"2": (1, 2), "n": {2: float("inf"), 10: "\u00e9\ud800"}}
        )
        checkpoints.wait()
        wanted = {"2": [1, 2], "n": {"2": float("inf"), "10": "\u00e9\ud800"}, "step": 1}
        assert checkpoints.read_meta() == wanted
        assert checkpoints.restore({"x": jnp.ones(1)})[1] == wanted


def test_meta_must_be_json(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(TypeError):
        checkpoints.save(1, {"x": jnp.ones(1)}, {"config": object()})


@pytest.mark.parametrize("options", [{"keep": 0}, {"keep_every": -1}])
def test_numbers_to_keep_are_checked(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="keep must be at least 1"):
        Checkpoints(tmp_path, **options)


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {"truncated": data[: len(data) // 2], "empty": b"", "zeroed": bytes(len(data))}[how]
        )


@pytest.mark.parametrize("how", ["missing", "truncated", "empty", "zeroed"])
def test_damaged_files_are_never_believed(
    copy: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    newer, older, used = make_state(2), make_state(1), []
    for path in files_of(copy / "2"):
        data = path.read_bytes()
        damage(path, how)
        caplog.clear()
        restored, meta = Checkpoints(copy).restore(newer)
        assert_same(restored, {1: older, 2: newer}[meta["step"]])
        said = " ".join(r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR)
        assert ("CHECKPOINT 2 IN" in said) == (meta["step"] == 1)
        used.append((re.sub("[0-9a-f]{32}", "*", str(path.relative_to(copy / "2"))), meta["step"]))
        path.write_bytes(data)
    assert {name for name, step in used if step == 1} >= {
        "meta/data.json",
        "state/_METADATA",
        "state/manifest.ocdbt",
    }
    assert ("state/ocdbt.process_0/d/*", 1) in used, "the file that holds the numbers"


def flip_and_restore(folder: Path, seed: int, count: int) -> dict[str, int]:
    """Flips single bits in step 2, restores, and counts the outcomes.

    Half of the bits are drawn from all bytes, half from a file that is drawn first, so that small
    files are hit as well.
    """
    rng = random.Random(seed)
    wanted = {step: bits(make_state(step)) for step in (1, 2)}
    target = jax.eval_shape(lambda: make_state(0))
    paths = files_of(folder / "2")
    outcome = {"older one used": 0, "values unharmed": 0}
    for turn in range(count):
        sizes = [p.stat().st_size for p in paths]
        path = rng.choices(paths, sizes if turn % 2 else None)[0]
        data = path.read_bytes()
        place = rng.randrange(len(data) * 8)
        path.write_bytes(
            data[: place // 8] + bytes([data[place // 8] ^ 1 << place % 8]) + data[place // 8 + 1 :]
        )
        restored, meta = Checkpoints(folder).restore(target)
        assert bits(restored) == wanted[meta["step"]], (
            f"bit {place} of {path} was restored silently wrong"
        )
        assert meta["config"] == {"seed": meta["step"]}
        outcome["values unharmed" if meta["step"] == 2 else "older one used"] += 1
        path.write_bytes(data)
    return outcome


def test_no_flipped_bit_is_restored(copy: Path) -> None:
    outcome = flip_and_restore(copy, 0, 40)
    assert outcome["older one used"] >= 10, outcome


@pytest.mark.soak
def test_no_flipped_bit_is_restored_of_200(copy: Path) -> None:
    outcome = flip_and_restore(copy, 1, 200)
    assert outcome["older one used"] >= 50, outcome


def wrong_numbers(folder: Path, step: int) -> None:
    """Replaces the arrays by intact ones of the same shapes, which only fingerprints can detect."""
    save_all(folder.parent / "other", 99)
    shutil.rmtree(folder / str(step) / "state")
    shutil.copytree(folder.parent / "other" / "99" / "state", folder / str(step) / "state")


def test_wrong_numbers_are_named_and_the_older_used(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong_numbers(copy, 2)
    checkpoints = Checkpoints(copy)
    restored, meta = checkpoints.restore(make_state(0))
    assert_same(restored, make_state(1))
    assert meta["step"] == 1
    (line,) = [r.getMessage() for r in caplog.records]
    assert "CHECKPOINT 2 IN" in line
    assert "params/body/kernel" in line
    assert "opt_state/1/0/count" not in line, "which was the same"
    with pytest.raises(CheckpointError, match=r"2: .*params/body/kernel"):
        checkpoints.restore(make_state(0), step=2)
    params, meta = checkpoints.restore_params()
    assert_same(params, make_state(1).params)
    assert meta["step"] == 1


def test_meta_is_checked_too(copy: Path) -> None:
    path = copy / "2" / "meta" / "data.json"
    path.write_text(path.read_text().replace('"seed": 2', '"seed": 3'))
    checkpoints = Checkpoints(copy)
    assert checkpoints.read_meta() == {"config": {"seed": 1}, "step": 1}
    assert checkpoints.restore(make_state(0))[1] == {"config": {"seed": 1}, "step": 1}
    with pytest.raises(CheckpointError, match=r"data.json: its checksum does not match"):
        checkpoints.read_meta(step=2)


def test_a_renamed_checkpoint_is_told(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    (copy / "2").rename(copy / "9")
    assert Checkpoints(copy).restore(make_state(0))[1]["step"] == 1
    assert "this is step 2" in caplog.text


def test_without_a_good_one_all_reasons_are_given_and_nothing_is_touched(copy: Path) -> None:
    wrong_numbers(copy, 1)
    damage(copy / "2" / "meta" / "data.json", "truncated")
    before = listing(copy)
    for read in (lambda c: c.restore(make_state(0)), lambda c: c.restore_params()):
        with pytest.raises(CheckpointError) as error:
            read(Checkpoints(copy))
        assert re.search(
            r"\n  2: .*data\.json.*\n  1: .*not what was saved", str(error.value), re.DOTALL
        )
    assert listing(copy) == before


def test_training_again_over_a_damaged_step_replaces_it(copy: Path) -> None:
    wrong_numbers(copy, 2)
    with Checkpoints(copy, keep=1) as checkpoints:
        assert checkpoints.restore(make_state(0))[1]["step"] == 1
        checkpoints.save(2, make_state(2), {"again": True})
        checkpoints.wait()
        restored, meta = checkpoints.restore(make_state(0))
        assert_same(restored, make_state(2))
        assert meta == {"again": True, "step": 2}
        assert checkpoints.steps() == [2]


def test_damaged_ones_do_not_count_as_kept(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    save_all(folder, 1, 2, 3)
    wrong_numbers(folder, 2)
    wrong_numbers(folder, 3)
    with Checkpoints(folder, keep=2) as checkpoints:
        assert checkpoints.restore(make_state(0))[1]["step"] == 1
        checkpoints.save(4, make_state(4), {})
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2, 3, 4], (
            "two good ones are kept, and what is damaged is left alone"
        )


def test_damaged_metadata_of_one_does_not_stop_saving(copy: Path) -> None:
    (copy / "1" / "_CHECKPOINT_METADATA").write_text(
        '{"init_timestamp_nsecs": "x", "commit_timestamp_nsecs": []}'
    )
    save_all(copy, 3)
    assert Checkpoints(copy).steps() == [1, 2, 3]


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env=child_environment(**environment),
        capture_output=True,
        text=True,
        timeout=120,
    )


def child_environment(**environment: str) -> dict[str, str]:
    path = str(places.ROOT)
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "PYTHONPATH": path,
        **environment,
    }


def test_a_failed_save_is_reported_and_can_be_tried_again(tmp_path: Path) -> None:
    state = {"x": jax.random.normal(jax.random.key(0), (50_000,))}
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.wait()
        before = listing(tmp_path / "1")
        with small_files():
            checkpoints.save(2, state, {})
            with pytest.raises(CheckpointError) as error:
                checkpoints.wait()
            for word in ("checkpoint 2", str(tmp_path), "File too large"):
                assert word in str(error.value)
            # The failure is reported once.
            checkpoints.wait()
            checkpoints.save(3, state, {})
            with pytest.raises(CheckpointError, match="checkpoint 3"):
                checkpoints.save(4, state, {})
            assert checkpoints.steps() == [1]
        assert listing(tmp_path / "1") == before
        checkpoints.save(4, state, {})
        checkpoints.wait()
        assert checkpoints.steps() == [4]
        assert sorted(p.name for p in tmp_path.iterdir()) == ["4"], (
            "nothing of the failed ones is left"
        )
        assert_same(checkpoints.restore(state)[0], state)


def test_close_reports_a_failed_save_but_hides_no_other_error(tmp_path: Path) -> None:
    state = {"x": jax.random.normal(jax.random.key(0), (50_000,))}
    with small_files():
        with (
            pytest.raises(CheckpointError, match="checkpoint 1 "),
            Checkpoints(tmp_path / "a") as checkpoints,
        ):
            checkpoints.save(1, state, {})
        # Orbax may still remove files in the first folder.
        with pytest.raises(KeyError, match="why"), Checkpoints(tmp_path / "b") as checkpoints:
            checkpoints.save(1, state, {})
            raise KeyError("why")


def test_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(
            f"a small file system may not be mounted here: {mounted.stderr.decode().strip()}"
        )
    try:
        state = {"x": jax.random.normal(jax.random.key(0), (100_000,))}
        ballast = disk / "ballast"
        with Checkpoints(disk / "c", keep=2) as checkpoints:
            checkpoints.save(1, state, {})
            checkpoints.wait()
            before = listing(disk / "c" / "1")
            # The disk becomes full during the save, or is full before it.
            for step, room in ((2, 200_000), (3, 0)):
                ballast.write_bytes(b"")
                ballast.write_bytes(bytes(shutil.disk_usage(disk).free - room))
                with pytest.raises(
                    CheckpointError, match=rf"checkpoint {step} .*{disk}.*(No space left|ENOSPC)"
                ):
                    checkpoints.save(step, state, {})
                    checkpoints.wait()
                assert checkpoints.steps() == [1]
                assert listing(disk / "c" / "1") == before
            assert_same(checkpoints.restore(state)[0], state)
            ballast.unlink()
            checkpoints.save(4, state, {})
            checkpoints.wait()
            assert checkpoints.steps() == [1, 4]
            assert_same(checkpoints.restore(state)[0], state)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        Checkpoints(tmp_path / "file" / "c") as checkpoints,
        pytest.raises(CheckpointError, match="Not a directory"),
    ):
        checkpoints.save(1, {"x": jnp.ones(1)}, {})


KILLED = """
import sys, jax, numpy as np
from ipt_jax.checkpoints.checkpoints import Checkpoints
checkpoints = Checkpoints(sys.argv[1], keep=2)
for step in range((checkpoints.latest() or 0) + 1, 10_000):
    x = jax.numpy.asarray(np.random.default_rng(step).standard_normal(300_000, np.float32))
    checkpoints.save(step, {"step": jax.numpy.int32(step), "x": x}, {})
    checkpoints.wait()
    print(step, flush=True)
"""


def kill_while_saving(folder: Path, delays: list[float]) -> None:
    """Kills a process that saves, starts it again in the same folder, and so on.

    Checkpoints that were complete must be there.
    """
    target = {"step": jnp.int32(0), "x": jnp.zeros((300_000,))}
    for delay in delays:
        command = [sys.executable, "-c", KILLED, str(folder)]
        with subprocess.Popen(
            command, env=child_environment(), stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            complete = int(child.stdout.readline())
            time.sleep(delay)
            child.send_signal(signal.SIGKILL)
            complete = int((child.stdout.read().split() or [complete])[-1])
        restored, meta = Checkpoints(folder).restore(target)
        assert meta["step"] in (complete, complete + 1)
        assert int(restored["step"]) == meta["step"]
        assert_same(
            restored["x"], np.random.default_rng(meta["step"]).standard_normal(300_000, np.float32)
        )
    with Checkpoints(folder, keep=1) as checkpoints:
        checkpoints.save(10**6, target, {})
    assert [p.name for p in folder.iterdir()] == ["1000000"], (
        "what the killed ones left is cleared away"
    )


def test_killed_while_saving(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kill_while_saving(tmp_path / "c", [0.05, 0.21])
    assert not caplog.records


@pytest.mark.soak
def test_killed_while_saving_many_times(tmp_path: Path) -> None:
    rng = random.Random(0)
    kill_while_saving(tmp_path / "c", [rng.uniform(0, 0.5) for _ in range(30)])


def test_orbax_is_not_heard(two: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(two, tmp_path / "c")
    for path in (folder / "2" / "state" / "d").iterdir():
        path.write_bytes(path.read_bytes()[:50])
    code = f"""
from ipt_jax import log
log.setup()  # first, as the command line does
import resource, jax
from ipt_jax.checkpoints.checkpoints import Checkpoints
from ipt_jax.errors import CheckpointError
state = {{"x": jax.random.normal(jax.random.key(0), (50_000,))}}
with Checkpoints({str(folder)!r}) as c:
    c.restore_params()
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    for step in 8, 9:
        try:
            c.save(step, state, {{}})
            c.wait()
        except CheckpointError:
            print("failed")
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["failed", "failed"]
    assert [line for line in done.stderr.splitlines() if "CHECKPOINT 2 IN" not in line] == []


def test_the_record_is_plain_json(two: Path) -> None:
    record = json.loads((two / "2" / "meta" / "data.json").read_text())
    assert record["step"] == 2
    assert record["leaves"]["params/body/bias"][:2] == ["bfloat16", [24]]
    assert re.fullmatch("[0-9a-f]{16}", record["leaves"]["step"][2])
