"""The accelerator of this machine, and whether jax uses it."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from ipt_jax.distributed import devices
from ipt_jax.errors import UserError


def machine(root, *, nvidia=False, pci=()) -> str:
    """Makes the folders `dev` and `sys` of a machine with these devices; returns their folder."""
    (root / "dev").mkdir()
    if nvidia:
        (root / "dev" / "nvidiactl").touch()
    for i, (vendor, kind) in enumerate(pci):
        device = root / "sys" / "bus" / "pci" / "devices" / f"0000:00:0{i}.0"
        device.mkdir(parents=True)
        (device / "vendor").write_text(vendor + "\n")
        (device / "device").write_text(kind + "\n")
    return str(root)


def test_without_an_accelerator_the_devices_are_named(tmp_path):
    # A network card of the same vendor as TPUs, and something else.
    root = machine(tmp_path, pci=[("0x1ae0", "0x0042"), ("0x8086", "0x0063")])
    assert devices.unused_accelerator(root) == ""
    said = devices.check_accelerator(root)
    assert said.startswith("jax ") and said.endswith(" uses 8 x cpu")


@pytest.mark.parametrize(
    ("there", "installed", "advice"),
    [
        ({"nvidia": True}, {}, r"NVIDIA GPU; its plug-in is not installed\. .*jax\[cuda13\]==\d"),
        (
            {"nvidia": True},
            {"jax-cuda12-plugin": "0.7.2"},
            r"its plug-in is jax-cuda12-plugin 0\.7\.2\. .*jax\[cuda12\]==\d",
        ),
        ({"pci": [("0x1ae0", "0x0063")]}, {}, r"does not use this machine's TPU.*jax\[tpu\]==\d"),
    ],
)
def test_an_accelerator_that_jax_does_not_use_is_named(
    monkeypatch, tmp_path, there, installed, advice
):
    root = machine(tmp_path, **there)
    monkeypatch.setattr(devices, "versions_of", lambda *names: installed)
    with pytest.raises(UserError, match=advice):
        devices.check_accelerator(root)


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a TPU's device says of its place."""

    coords: tuple[int, ...]
    core_on_chip: int = 0


def chips(*sides: int, first=(0, 0, 0)) -> list[Chip]:
    """Returns the chips of a slice in another order than that of their coordinates."""
    places = itertools.product(*(range(a, a + side) for a, side in zip(first, sides)))
    found = [Chip(place) for place in places]
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


def test_chips_of_a_slice_lie_in_the_grid_in_which_they_are_wired():
    grid = devices._torus(chips(16, 16, 1))
    assert grid.shape == (16, 16) and grid[3, 5].coords == (3, 5, 0)
    grid = devices._torus(chips(2, 4, 2, first=(4, 8, 2)))
    # The first two of three dimensions are one axis.
    assert grid.shape == (8, 2) and grid[6, 1].coords == (5, 10, 3)


def test_two_cores_of_a_chip_are_a_dimension():
    cores = [Chip((x, 0, 0), core) for x in range(4) for core in (0, 1)]
    grid = devices._torus(cores)
    assert grid.shape == (4, 2) and grid[2, 1] == Chip((2, 0, 0), 1)


@pytest.mark.parametrize(
    "some",
    [
        chips(1, 1, 1),
        chips(4, 1, 1),
        chips(2, 4, 1)[1:],
        [*chips(2, 2, 1), *chips(2, 2, 1)],
        [object()] * 4,
    ],
    ids=["one chip", "a row", "a hole", "the same twice", "no coordinates"],
)
def test_other_devices_are_on_one_axis(some):
    assert devices._torus(some) is None
