"""The accelerator of this machine, and whether jax uses it."""

from __future__ import annotations

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
