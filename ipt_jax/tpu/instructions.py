"""Reads the instructions of a compiled program's HLO text: shapes, memory spaces, operands."""

from __future__ import annotations

import dataclasses
import math
import re

from ipt_jax.tpu import hlo

# "bf16[24,256]{1,0:T(8,128)(2,1)S(1)}": kind, sides, layout.
_BUFFER = re.compile(r"\b(pred|token|[a-z]+\d+\w*)\[([\d,]*)\](\{[^}]*\})?")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = (.*)$")
_LAYOUT = re.compile(r"\{([\d,]*)(?::T\(([\d,]+)\))?")


@dataclasses.dataclass(frozen=True)
class Buffer:
    """One array that an instruction writes.

    Attributes:
      sides: its logical shape.
      bytes: its physical size, with sides filled up to whole tiles.
      in_hbm: whether it lies in the chip's main memory; otherwise it lies in VMEM or SMEM.
    """

    sides: tuple[int, ...]
    bytes: int
    in_hbm: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
      name: unique within its computation.
      op: the opcode, e.g. "fusion".
      outputs: what it writes; for a tuple, its elements.
      operands: names of instructions of the same computation; for a parameter, its number.
      root: whether it is the computation's result.
      text: the entire line.
    """

    name: str
    op: str
    outputs: tuple[Buffer, ...]
    operands: tuple[str, ...]
    root: bool
    text: str

    @property
    def called(self) -> str:
        """The name of the computation that a fusion or an asynchronous start runs, or ""."""
        found = re.search(r"calls=%([\w.\-]+)", self.text)
        return found.group(1) if found else ""

    @property
    def source(self) -> str:
        """The path of scopes and the jax operation that it comes from, or ""."""
        found = re.search(r'op_name="([^"]*)"', self.text)
        return found.group(1) if found else ""


Computation = dict[str, Instruction]


def read_instructions(lines: dict[str, list[str]]) -> dict[str, Computation]:
    """Returns the instructions of each computation by its name and theirs.

    Args:
      lines: the lines of each computation, from `hlo.read_computations`.
    """
    found = {}
    for computation, body in lines.items():
        read = (_instruction(line) for line in body)
        found[computation] = {one.name: one for one in read if one is not None}
    return found


def _instruction(line: str) -> Instruction | None:
    match = _INSTRUCTION.match(line)
    if match is None:
        return None
    root, name, rest = bool(match.group(1)), match.group(2), match.group(3)
    # A tuple of many elements has comments with their numbers.
    rest = re.sub(r"/\*index=\d+\*/", "", rest)
    end = _end_of_parenthesis(rest) if rest.startswith("(") else rest.index(" ")
    kind, call = rest[:end], rest[end:].lstrip()
    op = re.match(r"[\w\-]+", call)
    arguments = call[op.end() :] if op is not None else ""
    arguments = arguments[: _end_of_parenthesis(arguments)] if arguments.startswith("(") else ""
    name_of_op = op.group(0) if op is not None else ""
    operands: tuple[str, ...] = tuple(re.findall(r"%([\w.\-]+)", arguments))
    if name_of_op == "parameter":
        operands = (arguments.strip("() "),)
    outputs = tuple(_buffer(*found) for found in _BUFFER.findall(kind))
    return Instruction(name, name_of_op, outputs, operands, root, line)


def _end_of_parenthesis(text: str) -> int:
    """Returns the place after the parenthesis that closes the first one."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place + 1
    return len(text)


def _buffer(kind: str, sides: str, layout: str) -> Buffer:
    """Returns the buffer of a shape with a layout.

    The layout has the order of the axes from minor to major, the tile of the minor ones, and the
    memory space, S(n); without a space, or in space 0, the buffer lies in HBM.
    """
    shape = tuple(int(side) for side in sides.split(",") if side)
    physical = list(shape)
    found = _LAYOUT.match(layout)
    if found is not None and found.group(1):
        order = [int(axis) for axis in found.group(1).split(",")]
        tile = [int(side) for side in (found.group(2) or "").split(",") if side]
        for axis, side in zip(order, reversed(tile), strict=False):
            physical[axis] = math.ceil(physical[axis] / side) * side
    space = re.search(r"S\((\d+)\)", layout)
    bits = hlo.bits_of(kind)
    return Buffer(shape, math.prod(physical) * bits // 8, space is None or space.group(1) == "0")
