"""Reads collectives and the compiler's estimate of cycles from the HLO text of a program.

A scanned stack of layers is a loop, whose body the text has once. Each operation of the body counts
as often as the loop runs.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)
_BITS = {"pred": 8, "token": 0}
_OP = re.compile(r" ({})(-start)?\(".format("|".join(KINDS)))
_SHAPE = re.compile(r"\b(pred|token|[a-z]+\d+\w*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|branch_computations|true_computation|false_computation)=(\{[^}]*\}|%[\w.\-]+)"
)
_CHANNEL = re.compile(r"channel_id=(\d+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective instruction.

    Attributes:
      kind: one of `KINDS`.
      shapes: the shapes of its inputs or of its outputs, whichever are larger: "bf16[576,2304]".
      bytes: the size of these arrays on one chip.
      times: how often a step runs the instruction.
      group: the number of chips in a group, or 0 if the text does not have it.
      source: the jax operation that it comes from, or "".
    """

    kind: str
    shapes: tuple[str, ...]
    bytes: int
    times: int
    group: int
    source: str


@dataclasses.dataclass(frozen=True)
class Program:
    """What was read from the text of a program.

    Attributes:
      collectives: in the order of the text.
      cycles: the sum of the estimated cycles, or 0 if the text has none.
    """

    collectives: tuple[Collective, ...]
    cycles: int

    def summary(self) -> list[dict[str, int | str]]:
        """Returns `{"kind", "count", "bytes"}` for each kind of collective.

        "count" is the number of instructions that a step runs, "bytes" their size on one chip.
        """
        found: dict[str, dict[str, int | str]] = {}
        for kind in KINDS:
            of_kind = [c for c in self.collectives if c.kind == kind]
            if of_kind:
                count, size = sum(c.times for c in of_kind), sum(c.times * c.bytes for c in of_kind)
                found[kind] = {"kind": kind, "count": count, "bytes": size}
        return list(found.values())


def read_program(text: str) -> Program:
    """Reads the text of `compiled.as_text()`.

    Raises:
      ValueError: the text is no HLO module.
    """
    computations, entry = read_computations(text)
    times, in_fusion = count_runs(computations, entry)
    found, cycles = [], 0
    spread: set[tuple[str, str]] = set()
    for name, factor in times.items():
        for line in computations[name]:
            op = _OP.search(line)
            if op is not None:
                # A TPU may divide one collective among several fusions, each of which does a part
                # of it while it computes its own products.
                channel = _CHANNEL.search(line)
                if name in in_fusion and channel is not None:
                    one = (op.group(1), channel.group(1))
                    if one in spread:
                        continue
                    spread.add(one)
                found.append(
                    _collective(line, op, factor, scattered=name.startswith("all-reduce-scatter"))
                )
            if name not in in_fusion:
                cycles += factor * cycles_of(line)
    return Program(tuple(found), cycles)


def cycles_of(line: str) -> int:
    """Returns the compiler's estimate for one run of an instruction, 0 where there is none."""
    return sum(int(number) for number in _CYCLES.findall(line))


def count_runs(computations: dict[str, list[str]], entry: str) -> tuple[dict[str, int], set[str]]:
    """Returns how often a step runs each computation, and the names of those inside fusions."""
    times: dict[str, int] = {}
    in_fusion: set[str] = set()
    waiting = [(entry, 1, False)]
    # A computation runs as often as the sum over all paths of calls that lead to it. There are few.
    while waiting:
        name, factor, fused = waiting.pop()
        times[name] = times.get(name, 0) + factor
        if fused:
            in_fusion.add(name)
        for callee, count, inside in _calls(computations, name):
            waiting.append((callee, factor * count, fused or inside))
    return times, in_fusion


def shape_bytes(shape: str) -> int:
    """Returns the bytes of a shape such as "bf16[576,2304]".

    Raises:
      ValueError: the text is no shape.
    """
    match = _SHAPE.fullmatch(shape)
    if match is None:
        raise ValueError(f"{shape!r} is no shape")
    kind, sides = match.groups()
    return math.prod(int(side) for side in sides.split(",") if side) * bits_of(kind) // 8


def bits_of(kind: str) -> int:
    """Returns the bits of an element of a kind such as "bf16"."""
    return _BITS[kind] if kind in _BITS else int(re.findall(r"\d+", kind)[0])


def read_computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Returns the lines of each computation by its name, and the name of the entry computation.

    Raises:
      ValueError: the text is no HLO module.
    """
    found: dict[str, list[str]] = {}
    entry, lines = "", None
    for line in text.splitlines():
        start = _COMPUTATION.match(line) if not line.startswith(" ") else None
        if start is not None:
            lines = found.setdefault(start.group(2), [])
            entry = start.group(2) if start.group(1) else entry
        elif line.startswith("}"):
            lines = None
        elif lines is not None:
            lines.append(line)
    if not entry:
        raise ValueError("no HLO module: there is no ENTRY computation")
    return found, entry


def _calls(computations: dict[str, list[str]], name: str) -> Iterator[tuple[str, int, bool]]:
    """Yields (called computation, how often it runs, whether it is fused) for each call."""
    for line in computations[name]:
        # These repeat the name that async-start has called.
        if " async-done(" in line or " async-update(" in line:
            continue
        for how, names in _CALLED.findall(line):
            for callee in re.findall(r"%?([\w.\-]+)", names):
                if callee in computations:
                    loop = how in ("body", "condition")
                    yield (
                        callee,
                        _trips(computations, line) if loop else 1,
                        " fusion(" in line or how == "to_apply",
                    )


def _trips(computations: dict[str, list[str]], line: str) -> int:
    """Returns how often a `while` runs.

    The compiler may note the number. Otherwise it is the bound that the loop's condition compares
    with.
    """
    known = re.search(r"known_trip_count[^\d]*(\d+)", line)
    if known is not None:
        return int(known.group(1))
    condition = re.search(r"condition=%([\w.\-]+)", line)
    lines = computations.get(condition.group(1), []) if condition is not None else []
    constants = dict(re.findall(r"%([\w.\-]+) = \w+\[\]\S* constant\((\d+)\)", "\n".join(lines)))
    for operands in re.findall(r" compare\(([^)]*)\), direction=LT", "\n".join(lines)):
        for operand in re.findall(r"%([\w.\-]+)", operands):
            if operand in constants:
                return int(constants[operand])
    return 1


def _collective(line: str, op: re.Match[str], times: int, scattered: bool) -> Collective:
    kind, start = op.group(1), bool(op.group(2))
    shapes = ["{}[{}]".format(*shape) for shape in _SHAPE.findall(line[: op.start()])]
    # The shape of such a start has the inputs, the outputs and perhaps a counter or two.
    if start and kind != "all-reduce":
        shapes = [s for s in shapes if not s.endswith("[]")]
        shapes = shapes[len(shapes) // 2 :]
    group = _group(line)
    size = sum(shape_bytes(s) for s in shapes)
    if kind == "reduce-scatter":
        size *= max(1, group)
    source = re.search(r'op_name="([^"]*)"', line)
    # A TPU writes a reduce-scatter as a fusion that contains an all-reduce.
    kind = "reduce-scatter" if scattered and kind == "all-reduce" else kind
    return Collective(kind, tuple(shapes), size, times, group, source.group(1) if source else "")


def _group(line: str) -> int:
    """Returns the size of the first group, which has one of three notations, or 0."""
    groups = re.search(r"replica_groups=(.*?)(?:, [a-z_]+=|$)", line)
    if groups is None:
        return 0
    text = groups.group(1)
    mesh = re.match(r"mesh\[(.*?)\] *\{(.*?)\}", text)
    if mesh is not None:
        sides = dict(re.findall(r"'(\w+)'=(\d+)", mesh.group(1)))
        return math.prod(
            int(sides[axis]) for axis in re.findall(r"'(\w+)'", mesh.group(2)) if axis in sides
        )
    explicit = re.match(r"\{\{([\d,]*)\}", text)
    if explicit is not None:
        return len(explicit.group(1).split(","))
    short = re.match(r"\[\d+,(\d+)\]<=", text)
    return int(short.group(1)) if short is not None else 0
