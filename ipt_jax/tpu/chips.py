"""TPU chips and the slices of them that exist."""

from __future__ import annotations

import dataclasses
import math

from ipt_jax.errors import UserError
from ipt_jax.messages import nearest

GIB = 2.0**30
SOURCE = (
    "HBM as libtpu's compiler states it; other figures from the system architecture pages of "
    "Google Cloud's TPU documentation"
)

_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
    "2x2x1",
    "2x2x2",
    "2x2x4",
    "2x4x4",
    "4x4x4",
    "4x4x8",
    "4x8x8",
    "8x8x8",
    "8x8x16",
    "8x16x16",
)


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of TPU chip.

    Attributes:
      name: the first part of a topology's name, e.g. "v5e".
      kind: jax's name of the device.
      peak: FLOP/s of bfloat16 products.
      hbm: bytes of memory that a program can use.
      hbm_rate: bytes/s of that memory.
      ici: bytes/s that a chip sends over all of its links inside a slice, which is half of the
        published two-way figure.
      dcn: bytes/s that a chip sends to other slices, or None where no figure is published.
      clock: Hz, derived from the peak and the number of matrix units, or None where they give no
        plausible value.
      shapes: the shapes of the slices that exist.
    """

    name: str
    kind: str
    peak: float
    hbm: float
    hbm_rate: float
    ici: float
    dcn: float | None
    clock: float | None
    shapes: tuple[str, ...]


CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        # The clock is peak / (matrix units x 128 x 128 x 2), for v4 275e12 / (8 x 128 x 128 x 2).
        Chip(
            "v4", "TPU v4", 275e12, 30.75 * GIB, 1200e9, 300e9, None, 1.05e9, (*_CUBES, "12x16x16")
        ),
        Chip("v5e", "TPU v5 lite", 197e12, 15.75 * GIB, 819e9, 200e9, 3.125e9, 1.5e9, _FLAT),
        Chip(
            "v5p",
            "TPU v5",
            459e12,
            95.73 * GIB,
            2765e9,
            600e9,
            6.25e9,
            1.75e9,
            (*_CUBES, "16x16x16", "16x16x24"),
        ),
        Chip("v6e", "TPU v6 lite", 918e12, 31.24 * GIB, 1638e9, 400e9, None, None, _FLAT),
    )
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """One or several slices of the same shape.

    Attributes:
      name: as libtpu expects it, e.g. "v5e:16x16".
      chip: the kind of the chips.
      slices: the number of slices.
      chips: the number of chips in all slices.
    """

    name: str
    chip: Chip
    slices: int
    chips: int


def find_topology(name: str, slices: int = 1) -> Topology:
    """Returns the topology of so many slices of a name such as "v5e:16x16".

    Raises:
      UserError: the name is unknown; the message lists the known ones.
    """
    if slices < 1:
        raise UserError(f"--slices={slices}: must be at least 1")
    family, colon, shape = name.partition(":")
    chip = CHIPS.get(family)
    if chip is None or shape not in chip.shapes:
        names = [f"{c.name}:{s}" for c in CHIPS.values() for s in c.shapes]
        lines = "".join(f"\n  {c.name}: {', '.join(c.shapes)}" for c in CHIPS.values())
        no_shape = "" if colon else ", which has no shape"
        raise UserError(f"unknown topology {name!r}{no_shape}{nearest(name, names)}; known:{lines}")
    return Topology(name, chip, slices, slices * math.prod(int(side) for side in shape.split("x")))
