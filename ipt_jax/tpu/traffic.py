"""Counts the bytes that a compiled step moves through a chip's memory, and its products.

The compiler's own estimate of cycles does not measure a step that is bound by memory: for v5e it
charges a fill with zeros 7 times what the published bandwidth would take, and nothing for a Pallas
kernel. Here every operation counts the bytes that it reads from HBM and writes to it, and the
FLOP of its products:
- an operation in a loop counts as often as the loop runs;
- buffers in VMEM count nothing, and others with their sides filled up to whole tiles;
- of an array from which a fusion only takes a slice, or in which it only replaces one, the slice
  counts;
- a kernel counts each of its arrays once, and the FLOP that its author states.

What this cannot know is whether a transfer waits for another one.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from ipt_jax.tpu import hlo
from ipt_jax.tpu.chips import Chip
from ipt_jax.tpu.instructions import Buffer, Computation, Instruction, read_instructions

# They move nothing, or something that the operation to which they belong has counted.
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "async-update",
}
# Copies between HBM and VMEM that run beside other operations.
_PREFETCHES = ("copy-start", "slice-start", "async-start")
_SLICES = ("dynamic-slice", "slice")
# Custom calls that give a name to memory.
_NO_COPY = re.compile(r'custom_call_target="(AllocateBuffer|ConcatBitcast)"')
_KERNEL = 'custom_call_target="tpu_custom_call"'

# A kind of operation, and the paths of scopes that belong to it. The first that matches counts.
KINDS = (
    ("optimiser", r"/optimiser/"),
    ("losses", r"losses"),
    (
        "attention",
        r"attention/.*(bhqd|bhkd|bhqk|softmax|custom_vjp|pallas|attention_(for|back)ward)",
    ),
    ("projections", r"attention/.*(dot_general|/out/)"),
    ("attention, layout", r"attention"),
    ("LayerNorm", r"/norm\d?(/|$)|memory_norm"),
    ("feed-forward", r"feed_forward|/mlp/"),
    ("stacks", r"body/.*dynamic_(update_)?slice"),
    ("body, other", r"/body/|/body\)"),
    ("heads and tails", r"/head|/tail|task_"),
)
KERNELS, COLLECTIVES, FILLS, PREFETCHES = "kernels", "collectives", "fills", "prefetches"
OTHER = "other"


@dataclasses.dataclass(frozen=True)
class Operation:
    """One instruction that is not inside a fusion.

    Attributes:
      name: of the instruction.
      op: its opcode.
      kind: what it belongs to in the model's language; see `KINDS`.
      source: the path of scopes that it comes from.
      times: how often a step runs it.
      bytes: that it moves through HBM in a step, on one chip.
      flop: of its products in a step, on one chip.
      cycles: the compiler's estimate for a step.
      shape: its largest output, e.g. "(12, 24, 256)".
      largest: bytes of that output.
    """

    name: str
    op: str
    kind: str
    source: str
    times: int
    bytes: int
    flop: float
    cycles: int
    shape: str
    largest: int


def read_operations(text: str) -> list[Operation]:
    """Reads the text of `compiled.as_text()`.

    Raises:
      ValueError: the text is no HLO module.
    """
    lines, entry = hlo.read_computations(text)
    times, fused = hlo.count_runs(lines, entry)
    program = read_instructions(lines)
    found = []
    for name, runs in times.items():
        if name in fused:
            continue
        for one in program[name].values():
            moved = hbm_bytes(one, program[name], program)
            flop = product_flop(one, program[name], program)
            cycles = hlo.cycles_of(one.text)
            if moved or flop or cycles:
                largest = max(one.outputs, key=lambda b: b.bytes, default=Buffer((), 0, True))
                found.append(
                    Operation(
                        one.name,
                        one.op,
                        _kind(one, program),
                        one.source,
                        runs,
                        runs * moved,
                        runs * flop,
                        runs * cycles,
                        str(largest.sides),
                        largest.bytes,
                    )
                )
    return found


def hbm_bytes(one: Instruction, within: Computation, program: dict[str, Computation]) -> int:
    """Returns the bytes that one run of an instruction reads from HBM and writes to it."""
    if one.op in _FREE or one.op.endswith("-done") or _NO_COPY.search(one.text):
        return 0
    if one.op == "fusion" and one.called in program:
        return _fusion_bytes(one, within, program[one.called], program)
    if one.op == "async-start" and one.called in program:
        inner = program[one.called]
        return sum(hbm_bytes(each, inner, program) for each in inner.values())
    if one.op == "dynamic-update-slice":
        (update,) = _buffers(within, one.operands[1])
        return update.bytes * (update.in_hbm + one.outputs[0].in_hbm)
    if one.op in _SLICES:
        (source,) = _buffers(within, one.operands[0])
        return one.outputs[0].bytes * (source.in_hbm + one.outputs[0].in_hbm)
    if one.op in ("copy-start", "slice-start"):
        # Its outputs are the two sides of the copy, and a counter.
        sides = one.outputs[:2]
        return min(side.bytes for side in sides) * sum(side.in_hbm for side in sides)
    reads = (buffer for operand in one.operands for buffer in _buffers(within, operand))
    return _in_hbm(one.outputs) + _in_hbm(reads)


def _in_hbm(buffers: Iterable[Buffer]) -> int:
    return sum(buffer.bytes for buffer in buffers if buffer.in_hbm)


def _buffers(within: Computation, name: str) -> tuple[Buffer, ...]:
    return within[name].outputs if name in within else ()


def _fusion_bytes(
    one: Instruction, within: Computation, body: Computation, program: dict[str, Computation]
) -> int:
    total = 0
    for number, operand in enumerate(one.operands):
        whole = _in_hbm(_buffers(within, operand))
        part = _read_of_parameter(body, number, program)
        total += whole if part is None else min(whole, part)
    for buffer, root in zip(one.outputs, _roots(body), strict=False):
        if buffer.in_hbm:
            replaced = _replaced(root, body, program)
            total += buffer.bytes if replaced is None else replaced
    return total


def _read_of_parameter(
    body: Computation, number: int, program: dict[str, Computation]
) -> int | None:
    """Returns the bytes that a fusion reads of a parameter, or None for all of it."""
    for one in body.values():
        if one.op == "parameter" and one.operands == (str(number),):
            return _read_of(one, body, program)
    return None


def _read_of(one: Instruction, body: Computation, program: dict[str, Computation]) -> int | None:
    if one.root:
        return None
    total = 0
    for user in body.values():
        if one.name not in user.operands or user.op == "parameter":
            continue
        part: int | None = None
        if user.op == "bitcast":
            part = _read_of(user, body, program)
        elif user.op in _SLICES and user.operands[0] == one.name:
            part = user.outputs[0].bytes
        elif user.op == "dynamic-update-slice" and user.operands[0] == one.name:
            part = 0
        elif user.op == "fusion" and user.called in program:
            place = user.operands.index(one.name)
            part = _read_of_parameter(program[user.called], place, program)
        if part is None:
            return None
        total += part
    return total


def _roots(body: Computation) -> Iterator[Instruction]:
    """Yields the instructions that make the outputs of a fusion, in order."""
    for one in body.values():
        if one.root and one.op == "tuple":
            yield from (body[operand] for operand in one.operands)
        elif one.root:
            yield one


def _replaced(one: Instruction, body: Computation, program: dict[str, Computation]) -> int | None:
    """Returns the bytes of the slice that a fusion replaces in an array, or None for a new one."""
    while one.op == "bitcast" and one.operands[0] in body:
        one = body[one.operands[0]]
    if one.op == "dynamic-update-slice":
        return sum(buffer.bytes for buffer in _buffers(body, one.operands[1]))
    if one.op == "fusion" and one.called in program:
        inner = program[one.called]
        roots = list(_roots(inner))
        return _replaced(roots[0], inner, program) if len(roots) == 1 else None
    return None


def product_flop(one: Instruction, within: Computation, program: dict[str, Computation]) -> float:
    """Returns the FLOP of the products that one run of an instruction computes."""
    if one.op == "convolution":
        return _convolution_flop(one, within)
    if one.op == "dot":
        (left,) = _buffers(within, one.operands[0])
        summed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.text)
        axes = [int(axis) for axis in (summed.group(1) if summed else "").split(",") if axis]
        return 2.0 * math.prod(one.outputs[0].sides) * math.prod(left.sides[a] for a in axes)
    if one.op in ("fusion", "async-start") and one.called in program:
        inner = program[one.called]
        return sum(product_flop(each, inner, program) for each in inner.values())
    if one.op == "custom-call" and _KERNEL in one.text:
        stated = re.search(r'"flops":"?(\d+)', one.text)
        return float(stated.group(1)) if stated else 0.0
    return 0.0


def _convolution_flop(one: Instruction, within: Computation) -> float:
    """Returns 2 x the pairs of elements that are multiplied; padding does not count.

    A TPU's compiler writes every matrix product as a convolution.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.text)
    if labels is None or len(one.operands) < 2:
        return 0.0
    left, kernel, out = labels.groups()
    (image,), (filters,) = (_buffers(within, operand) for operand in one.operands[:2])
    pairs = float(math.prod(one.outputs[0].sides)) * filters.sides[kernel.index("i")]
    window = re.search(r"window=\{([^}]*)\}", one.text)
    fields = dict(part.split("=") for part in window.group(1).split()) if window else {}
    sizes = [int(side) for side in fields.get("size", "").split("x") if side]

    def values(name: str, default: int) -> list[int]:
        return (
            [int(n) for n in fields[name].split("x")] if name in fields else [default] * len(sizes)
        )

    pads = [int(p.split("_")[0]) for p in fields["pad"].split("x")] if "pad" in fields else None
    for axis, size in enumerate(sizes):
        pairs *= _pairs_along(
            image.sides[left.index(str(axis))],
            one.outputs[0].sides[out.index(str(axis))],
            size,
            stride=values("stride", 1)[axis],
            pad=pads[axis] if pads else 0,
            spread_image=values("lhs_dilate", 1)[axis],
            spread_filter=values("rhs_dilate", 1)[axis],
        )
    return 2.0 * pairs


def _pairs_along(
    image: int,
    out: int,
    size: int,
    *,
    stride: int,
    pad: int,
    spread_image: int,
    spread_filter: int,
) -> float:
    """Returns how many taps of a filter of `size` meet an element of the image, per output."""
    met = 0
    for place in range(out):
        for tap in range(size):
            at = place * stride + tap * spread_filter - pad
            met += at >= 0 and at % spread_image == 0 and at // spread_image < image
    return met / out


def _kind(one: Instruction, program: dict[str, Computation]) -> str:
    if any(one.op.startswith(kind) for kind in hlo.KINDS):
        return COLLECTIVES
    if one.op == "custom-call" and _KERNEL in one.text:
        return KERNELS
    if one.op in _PREFETCHES:
        return PREFETCHES
    if is_fill(one, program):
        return FILLS
    source = one.source or _source_inside(one, program)
    for kind, pattern in KINDS:
        if re.search(pattern, source):
            return kind
    return OTHER


def _source_inside(one: Instruction, program: dict[str, Computation]) -> str:
    """Returns the first path of scopes inside a fusion that has none itself."""
    inner = program.get(one.called, {})
    return next((each.source for each in inner.values() if each.source), "")


def is_fill(one: Instruction, program: dict[str, Computation]) -> bool:
    """Returns whether an instruction only writes one number everywhere in an array."""
    if one.op == "fusion" and one.called in program:
        ops = {each.op for each in program[one.called].values()}
        scalars = all(
            not buffer.sides
            for each in program[one.called].values()
            if each.op == "parameter"
            for buffer in each.outputs
        )
        return ops <= {"parameter", "constant", "broadcast", "bitcast"} and scalars
    return one.op == "broadcast"


def roofline(operations: Iterable[Operation], chip: Chip) -> tuple[float, float]:
    """Returns the seconds of a step by the chip's published figures, and those of its prefetches.

    Each operation takes the longer of its bytes at the memory's rate and its FLOP at the peak, one
    after the other. Prefetches run beside them, and are summed up by themselves.
    """
    beside, total = 0.0, 0.0
    for one in operations:
        moving = one.bytes / chip.hbm_rate
        if one.kind == PREFETCHES:
            beside += moving
        else:
            total += max(moving, one.flop / chip.peak)
    return total, beside


def by_kind(operations: Iterable[Operation], chip: Chip) -> list[dict[str, Any]]:
    """Returns `{"kind", "bytes", "flop", "seconds", "cycles", "runs"}` for each kind.

    "seconds" is the kind's part of the roofline; the longest comes first.
    """
    groups: dict[str, list[Operation]] = defaultdict(list)
    for one in operations:
        groups[one.kind].append(one)
    rows = [
        {
            "kind": kind,
            "bytes": sum(one.bytes for one in group),
            "flop": sum(one.flop for one in group),
            "seconds": sum(roofline(group, chip)),
            "cycles": sum(one.cycles for one in group),
            "runs": sum(one.times for one in group),
        }
        for kind, group in groups.items()
    ]
    return sorted(rows, key=lambda row: -row["seconds"])
