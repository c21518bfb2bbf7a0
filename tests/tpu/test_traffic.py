"""Bytes, FLOP and kinds of operations of compiled programs whose figures are known."""

from __future__ import annotations

import pytest
from places import GOLDEN

from ipt_jax.tpu import chips, hlo, traffic
from ipt_jax.tpu.instructions import read_instructions

V5E = chips.CHIPS["v5e"]
MB = 1e6


def operations(name):
    """Reads a program that libtpu 0.0.52 compiled for v5e."""
    return traffic.read_operations((GOLDEN / "hlo" / f"tpu_{name}.txt").read_text())


def total(found, kind=None):
    return sum(one.bytes for one in found if kind in (None, one.kind))


def test_a_fill_writes_its_array():
    found = operations("fill")
    assert total(found, traffic.FILLS) == 48 * 6144 * 2304 * 2
    assert total(found) - total(found, traffic.FILLS) < 100


def test_a_product_reads_two_matrices_and_writes_one():
    found = operations("product")
    assert total(found) == 3 * 8192 * 8192 * 2
    assert sum(one.flop for one in found) == 2 * 8192**3
    seconds, prefetches = traffic.roofline(found, V5E)
    assert seconds == pytest.approx(2 * 8192**3 / 197e12) and prefetches == 0


def test_a_scan_writes_one_slice_of_its_stack_at_a_time():
    # The carry fits into VMEM: it is read once from HBM, before the loop.
    found = operations("stack")
    assert total(found, "stacks") == 12 * 65536 * 576 * 2
    assert total(found, traffic.PREFETCHES) == 65536 * 576 * 2
    assert total(found) < 13.001 * 65536 * 576 * 2


def test_tiles_are_filled_up_and_padding_is_not_multiplied():
    found = operations("convolution")
    outside = 64 * 96 * 64 * 128 * 2  # 96 columns take a tile of 128.
    inside = 64 * 96 * 96 * 128 * 2  # 64 channels take a tile of 128.
    copies = [one for one in found if one.op == "copy" and one.bytes > MB]
    assert [one.bytes for one in copies] == [outside + inside] * 2
    (product,) = (one for one in found if one.flop)
    assert product.bytes == 2 * inside
    # Of 3 x 96 taps along a side, two meet the border.
    assert product.flop == pytest.approx(2 * 64 * 64 * 64 * (3 * 96 - 2) ** 2)


def test_a_kernel_moves_its_arrays_and_computes_what_its_author_states():
    (kernel,) = (one for one in operations("attention") if one.kind == traffic.KERNELS)
    assert kernel.bytes == (1728 + 576) * 96 * 256 * 2
    assert kernel.flop == 2 * 2 * 96 * 256 * 256 * 576


SLICED = """HloModule sliced

%taken (stack: f32[12,1024,128], at: s32[]) -> (f32[1,1024,128], f32[12,1024,128]) {
  %stack = f32[12,1024,128]{2,1,0:T(8,128)} parameter(0)
  %at = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %slice = f32[1,1024,128]{2,1,0:T(8,128)} dynamic-slice(%stack, %at, %zero, %zero)
  %twice = f32[1,1024,128]{2,1,0:T(8,128)} add(%slice, %slice)
  %put = f32[12,1024,128]{2,1,0:T(8,128)} dynamic-update-slice(%stack, %twice, %at, %zero, %zero)
  ROOT %both = (f32[1,1024,128]{2,1,0:T(8,128)}, f32[12,1024,128]{2,1,0:T(8,128)}) tuple(%twice, %put)
}

ENTRY %main (p: f32[12,1024,128], i: s32[]) -> (f32[1,1024,128], f32[12,1024,128]) {
  %p = f32[12,1024,128]{2,1,0:T(8,128)} parameter(0)
  %i = s32[]{:T(128)S(6)} parameter(1)
  ROOT %f = (f32[1,1024,128]{2,1,0:T(8,128)S(1)}, f32[12,1024,128]{2,1,0:T(8,128)}) fusion(%p, %i), kind=kLoop, calls=%taken, metadata={op_name="jit(step)/optimiser/mul"}
}
"""  # noqa: E501


def test_a_fusion_that_slices_a_stack_and_replaces_a_slice_moves_two_slices():
    # The other output lies in VMEM.
    (one,) = traffic.read_operations(SLICED)
    assert one.bytes == 2 * 1024 * 128 * 4
    assert one.kind == "optimiser"


def test_a_fusion_that_uses_the_whole_stack_too_reads_it():
    whole = SLICED.replace(
        "ROOT %both", "%sum = f32[12,1024,128]{2,1,0:T(8,128)} add(%stack, %stack)\n  ROOT %both"
    )
    (one,) = traffic.read_operations(whole)
    assert one.bytes == (12 + 1) * 1024 * 128 * 4


@pytest.mark.parametrize(
    "layout, size, in_hbm",
    [
        ("", 2 * 3 * 100, True),
        ("{1,0}", 2 * 3 * 100, True),
        ("{1,0:T(8,128)(2,1)}", 2 * 8 * 128, True),
        ("{0,1:T(8,128)(2,1)}", 2 * 128 * 104, True),
        ("{1,0:T(256)}", 2 * 3 * 256, True),
        ("{1,0:T(8,128)(2,1)S(1)}", 2 * 8 * 128, False),
        ("{1,0:T(8,128)S(0)}", 2 * 8 * 128, True),
    ],
)
def test_physical_bytes_of_a_buffer(layout, size, in_hbm):
    line = f"  %x = bf16[3,100]{layout} parameter(0)"
    (buffer,) = read_instructions({"main": [line]})["main"]["x"].outputs
    assert (buffer.sides, buffer.bytes, buffer.in_hbm) == ((3, 100), size, in_hbm)


@pytest.mark.parametrize(
    "source, kind",
    [
        ("jit(step)/optimiser/add", "optimiser"),
        ("jit(step)/jvp(losses)/reduce_sum", "losses"),
        ("jit(step)/jvp(IPT)/body/while/body/closed_call/encoder/norm1/mul", "LayerNorm"),
        (
            "jit(step)/jvp(IPT)/body/while/body/closed_call/encoder/self_attention/dot_general",
            "projections",
        ),
        (
            "jit(step)/jvp(IPT)/body/while/body/encoder/self_attention/bhqd,bhkd->bhqk/dot_general",
            "attention",
        ),
        ("jit(step)/transpose(jvp(IPT))/body/decoder/feed_forward/in/dot_general", "feed-forward"),
        ("jit(step)/jvp(IPT)/task_sr2/head/conv/add", "heads and tails"),
        ("jit(step)/jvp(IPT)/body/while/body/dynamic_update_slice", "stacks"),
        ("", "other"),
    ],
)
def test_kinds(source, kind):
    text = SLICED.replace("jit(step)/optimiser/mul", source)
    (one,) = traffic.read_operations(text)
    assert one.kind == kind


def test_the_table_by_kind_adds_up():
    found = operations("convolution")
    rows = traffic.by_kind(found, V5E)
    assert sum(row["bytes"] for row in rows) == total(found)
    assert sum(row["seconds"] for row in rows) == pytest.approx(sum(traffic.roofline(found, V5E)))


def test_runs_of_computations():
    lines, entry = hlo.read_computations((GOLDEN / "hlo" / "tpu_stack.txt").read_text())
    times, fused = hlo.count_runs(lines, entry)
    assert max(times.values()) == 12 and times[entry] == 1
    assert fused and entry not in fused
