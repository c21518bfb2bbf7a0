"""`ipt compile`: HLO, memory, estimates, advice and errors. With libtpu, also the compiler."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import pathlib
import subprocess
import sys
import types

import places
import pytest

from ipt_jax.cli.app import main
from ipt_jax.errors import UserError
from ipt_jax.tpu import chips, estimate, hlo
from ipt_jax.tpu.chips import GIB

HERE = places.GOLDEN / "hlo"
# The output of libtpu 0.0.52 for a step with a scan of 12 layers, shortened.
TPU = (HERE / "tpu.txt").read_text()
# The output of a CPU's compiler, which notes how often a loop runs.
CPU = (HERE / "cpu.txt").read_text()
# One gather that a TPU divides into three parts beside three products, as in the step of
# configs/pretrain_1b.py, shortened.
SPREAD = (HERE / "spread.txt").read_text()
REFUSED = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
    "required for HLO temporaries "
    "(17.43G) exceeds available HBM (15.75G). HLO module: jit_step."
)
OLDER = (
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
    "Used 17.43G of 15.75G hbm."
)


def test_collectives_count_as_often_as_their_loop_runs():
    program = hlo.read_program(TPU)
    layer = 2 * 2304 + 2 * 576 * 2304 + 4 * 576
    assert program.summary() == [
        {"kind": "all-reduce", "count": 12, "bytes": 12 * layer},
        {"kind": "all-gather", "count": 1, "bytes": 4 * 576 * 576},
        {"kind": "reduce-scatter", "count": 12, "bytes": 12 * 2 * 576 * 2304},
    ]
    reduced = next(c for c in program.collectives if c.kind == "all-reduce")
    assert reduced.shapes == ("bf16[1,2304]", "bf16[576,2304]", "f32[576]")
    assert reduced.group == 8 and reduced.source.endswith("feed_forward/in/reduce_sum")
    assert {c.group for c in program.collectives} == {8}


def test_a_collective_spread_over_fusions_counts_once():
    assert hlo.read_program(SPREAD).summary() == [
        {"kind": "all-gather", "count": 2, "bytes": 2 * 2 * 64 * 64}
    ]


def test_cycles_are_those_of_operations_not_of_what_is_fused_in_them():
    assert hlo.read_program(TPU).cycles == 12 * 1902 + 100


def test_the_compilers_trip_count_and_a_scattered_sum():
    (found,) = hlo.read_program(CPU).collectives
    assert (found.kind, found.times, found.group, found.bytes) == (
        "reduce-scatter",
        3,
        4,
        8 * 4 * 4,
    )


@pytest.mark.parametrize(
    "shape, size", [("f32[]", 4), ("bf16[2,3]", 12), ("pred[7]", 7), ("u8[3]", 3), ("f8e4m3[4]", 4)]
)
def test_bytes_of_shapes(shape, size):
    assert hlo.shape_bytes(shape) == size


def test_what_is_no_program():
    with pytest.raises(ValueError, match="no HLO module"):
        hlo.read_program("hello")
    with pytest.raises(ValueError, match="is no shape"):
        hlo.shape_bytes("hello")


def test_memory_by_the_compilers_account():
    analysis = types.SimpleNamespace(
        argument_size_in_bytes=20,
        temp_size_in_bytes=100,
        output_size_in_bytes=21,
        alias_size_in_bytes=19,
        generated_code_size_in_bytes=3,
    )
    found = estimate.memory_needed(analysis, "", 1000.0)
    assert found["needed"] == 20 + 100 + 21 - 19 + 3 and found["available"] == 1000.0


@pytest.mark.parametrize("message", [REFUSED, OLDER])
def test_memory_by_the_compilers_refusal(message):
    found = estimate.memory_needed(None, message, 1.0)
    assert found["needed"] == pytest.approx(17.43 * GIB) and found["available"] == pytest.approx(
        15.75 * GIB
    )


def test_a_refusal_without_figures():
    found = estimate.memory_needed(None, "RESOURCE_EXHAUSTED: for some reason", 5.0)
    assert math.isnan(found["needed"]) and found["available"] == 5.0


def test_the_estimate_is_the_roofline():
    where = chips.find_topology("v5e:2x4")
    program = hlo.Program(
        (
            hlo.Collective("all-reduce", (), 10**9, 2, 8, ""),
            hlo.Collective("all-gather", (), 10**9, 1, 8, ""),
        ),
        3000,
    )
    found = estimate.estimate_step(8 * 197e12 * 0.5, 64, program, where, 0.5)
    assert found["compute_s"] == pytest.approx(1.0)
    assert found["collectives_s"] == pytest.approx((2 * 2 + 1) * 1e9 * 7 / 8 / 200e9)
    assert found["step_s"] == pytest.approx(found["compute_s"] + found["collectives_s"])
    assert found["mfu"] == pytest.approx(0.5 / found["step_s"]) and found[
        "samples_per_s"
    ] == pytest.approx(64 / found["step_s"])
    assert found["compiler_s"] == pytest.approx(3000 / 1.5e9)
    assert any("45 %" in text or "50 %" in text for text in found["assumptions"])
    two = estimate.estimate_step(
        8 * 197e12 * 0.5, 64, program, chips.find_topology("v5e:2x4", 2), 0.5
    )
    assert two["collectives_s"] > found["collectives_s"] and any(
        "between slices" in text for text in two["assumptions"]
    )


def report(needed: float, **changes):
    base = {
        "hbm": {"needed": needed * GIB, "available": 16 * GIB},
        "state": 2 * GIB,
        "batch_per_chip": 48,
        "accumulate": 1,
        "remat": "none",
        "sharding": "data",
        "chips": 8,
    }
    return {**base, **changes}


def test_advice_says_what_fits_and_about_how_much_it_needs():
    # 3 GiB are constant, and a sample takes 0.5. So 26 samples fit, of which 24 are a multiple.
    lines = estimate.advise(report(27), GIB, 12)
    assert lines[0] == "--batch-per-chip=24: about 15.0 of 16.00 GiB"
    assert any(line.startswith("--config.model.remat=elementwise: about 15.5") for line in lines)
    assert any(line.startswith("--config.optim.accumulate=2: about 15.0") for line in lines)
    assert not any("fsdp" in line for line in lines)


def test_advice_for_a_step_of_micro_batches():
    # 3 GiB are constant, and each of the 24 samples of a micro-batch takes 1. 13 fit, of which 12
    # are a multiple, in each of two micro-batches.
    lines = estimate.advise(report(27, accumulate=2), GIB, 12)
    assert lines[0] == "--batch-per-chip=24: about 15.0 of 16.00 GiB"
    assert any(line.startswith("--config.optim.accumulate=4: about 15.0") for line in lines)


def test_advice_where_the_state_is_the_trouble():
    lines = estimate.advise(report(40, state=17 * GIB), 4 * GIB, 12)
    assert lines == ["--config.sharding=fsdp: splits the state, which takes 17.0 GiB on every chip"]


def test_advice_where_nothing_helps_alone():
    (line,) = estimate.advise(report(200, remat="layer", batch_per_chip=12), GIB, 12)
    assert "chips with more memory" in line


@pytest.mark.parametrize(
    "name, message",
    [
        (
            "v5e:3x3",
            r"unknown topology 'v5e:3x3' \(did you mean 'v5e:.x.'\?\); known:\n.*v4: 2x2x1",
        ),
        ("v5e", "which has no shape"),
        ("v7:2x2", "unknown topology 'v7:2x2'"),
    ],
)
def test_unknown_topologies_list_the_known_ones(name, message):
    with pytest.raises(UserError, match=message):
        chips.find_topology(name)


def test_topologies():
    assert (
        chips.find_topology("v5e:16x16").chips == 256
        and chips.find_topology("v4:2x2x2", 3).chips == 24
    )
    with pytest.raises(UserError, match="--slices=0"):
        chips.find_topology("v5e:2x4", 0)


def test_without_libtpu_the_message_names_the_extra(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert (
        main(
            ["compile", "--config=configs/demo.py", "--topology=v5e:2x4", "--config.batch_size=96"]
        )
        == 2
    )
    assert "pip install -e '.[compile]'" in capsys.readouterr().err


def test_a_share_of_the_peak_is_a_share(capsys):
    assert (
        main(["compile", "--config=configs/demo.py", "--topology=v5e:2x4", "--utilisation=45"]) == 2
    )
    assert "--utilisation=45.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ["--batch-per-chip=23"],
            "batch_size=184 must be a multiple of 96 = 6 task(s) a step x what 8 device(s)",
        ),
        (["--config.batch_size=48"], "batch_size=48 must be a multiple of 96"),
        (["--batch-per-chip=-1"], "--batch-per-chip=-1: must be at least 1"),
        (["--slices=0"], "--slices=0"),
        (["--json=nowhere/report.json"], "--json=nowhere/report.json: there is no folder nowhere"),
        (["--config.model.remat=all"], "model.remat: unknown 'all'"),
    ],
)
def test_what_cannot_be_compiled_is_refused_at_once(flags, message, monkeypatch, capsys):
    # Without a compiler, a config that is not refused would fail in another way.
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["compile", "--config=configs/demo.py", "--topology=v5e:2x4", *flags]) == 2
    assert message in capsys.readouterr().err


def ipt_compile(folder: pathlib.Path, *arguments: str, seconds: int = 1500):
    """Runs `ipt compile`; returns its exit code, its report and its output."""
    path = folder / "report.json"
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    done = subprocess.run(
        [sys.executable, "-m", "ipt_jax", "compile", *arguments, f"--json={path}"],
        capture_output=True,
        text=True,
        timeout=seconds,
        env=environment,
    )
    return (
        done.returncode,
        json.loads(path.read_text()) if path.exists() else {},
        done.stdout + done.stderr,
    )


@pytest.fixture
def libtpu():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("needs libtpu: pip install '.[tpu]'")


# libtpu's compiler takes minutes to half an hour on two cores.
@pytest.mark.soak
@pytest.mark.timeout(1600)
def test_a_small_model_on_a_small_slice(libtpu, tmp_path):
    code, found, said = ipt_compile(
        tmp_path,
        "--config=configs/demo.py",
        "--topology=v5e:2x4",
        "--batch-per-chip=24",
        "--config.tasks=denoise30",
    )
    assert code == 0, said
    assert found["fits"] and found["chips"] == 8 and found["batch"] == 192 and found["hosts"] == 2
    assert [one["kind"] for one in found["collectives"]] == ["all-reduce"]
    weights = 4 * found["parameters"]
    # The collective carries the gradients and little else.
    assert 0.9 * weights < found["collectives"][0]["bytes"] < 2 * weights
    assert found["hbm"]["needed"] < GIB and found["estimate"]["cycles"] > 0
    assert "all-reduce" in said and "MFU" in said


# libtpu's compiler takes minutes to half an hour on two cores.
@pytest.mark.soak
@pytest.mark.timeout(1600)
def test_the_papers_size_fits_a_pod(libtpu, tmp_path):
    code, found, said = ipt_compile(
        tmp_path, "--config=configs/pretrain_imagenet.py:256", "--topology=v5e:16x16"
    )
    assert code == 0, said
    assert found["fits"] and found["chips"] == 256 and found["batch_per_chip"] == 24
    assert [one["kind"] for one in found["collectives"]] == ["all-reduce"]
    assert found["hbm"]["needed"] < 12 * GIB


# libtpu's compiler takes minutes to half an hour on two cores.
@pytest.mark.soak
@pytest.mark.timeout(1600)
def test_what_does_not_fit_says_by_how_much_and_what_would(libtpu, tmp_path):
    code, found, said = ipt_compile(
        tmp_path,
        "--config=configs/demo.py",
        "--topology=v5e:1x1",
        "--batch-per-chip=6144",
        "--config.tasks=denoise30",
        "--config.optim.ema=0.0",
    )
    assert code == 1, said
    assert (
        not found["fits"] and found["hbm"]["needed"] > found["hbm"]["available"] and found["advice"]
    )
    assert (
        "DOES NOT FIT, by" in said
        and "--config.model.remat=" in said
        and "--config.optim.accumulate=" in said
    )


# Three minutes of an idle machine.
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_step_on_one_chip_is_bound_by_products(libtpu, tmp_path):
    """Two layers of each stack: bytes, memory and fills of the fused step stay within bounds."""
    code, found, said = ipt_compile(
        tmp_path,
        "--config=configs/pretrain_imagenet.py:1",
        "--topology=v5e:1x1",
        "--config.tasks=denoise30",
        "--config.model.encoder_layers=2",
        "--config.model.decoder_layers=2",
        "--by-kind",
    )
    assert code == 0, said
    traffic = found["traffic"]
    # libtpu 0.0.52: 3.10 GB, 1.055 TFLOP, 0.53 GiB. Plain attention needs 7.7 GB.
    assert 2.5e9 < traffic["hbm_bytes"] < 3.3e9 and 0.9e12 < traffic["flop_run"] < 1.1e12
    assert found["hbm"]["temporary"] < 0.6 * GIB
    kinds = {row["kind"]: row for row in traffic["kinds"]}
    # What is left are the sums of the gradients of encoder and decoder.
    assert kinds["fills"]["bytes"] < 0.07e9
    assert found["attention"] == "fused" and len(traffic["kernels"]) == 6
    assert all(one["times"] == 2 and 2000 < one["bundles"] < 9000 for one in traffic["kernels"])
    assert "HBM moved" in said and "feed-forward" in said


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:16x16", "v5p:4x4x4"])
def test_gradients_in_pieces_are_scattered_and_never_whole(libtpu, topology):
    """The compiler scatters along one dimension of the torus at a time, or reduces everywhere."""
    code = f"""
import jax, jax.numpy as jnp
from ipt_jax.distributed import sharding
from ipt_jax.distributed.devices import topology_mesh
from ipt_jax.tpu import hlo

mesh = topology_mesh("{topology}")
rows = 64 * mesh.size

def loss(kernel, x):
    whole = sharding.gather(mesh, jnp.bfloat16, True, {{"kernel": kernel}})["kernel"]
    return jnp.sum((x @ whole).astype(jnp.float32) ** 2)

kernel = jax.ShapeDtypeStruct((2048, 2048), jnp.float32)
x = jax.ShapeDtypeStruct((rows, 2048), jnp.bfloat16)
pieces = sharding.state_shardings({{"kernel": kernel}}, mesh, "fsdp")["kernel"]
step = jax.jit(
    jax.grad(loss), in_shardings=(pieces, sharding.split(mesh)), out_shardings=pieces
)
for one in hlo.read_program(step.lower(kernel, x).compile().as_text()).collectives:
    print(one.kind, one.bytes)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines()]
    kinds = [kind for kind, size in found if int(size) > 100_000]
    assert set(kinds) == {"reduce-scatter", "all-gather"}, found


@pytest.mark.slow
def test_several_slices_can_be_described(libtpu):
    script = (
        "from ipt_jax.distributed.devices import topology_mesh; "
        "mesh = topology_mesh('v5e:2x4', 2); print(mesh.size, mesh.devices[-1].slice_index)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split() == ["16", "1"], done.stderr
