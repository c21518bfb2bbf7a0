"""Named sizes of the network."""

from __future__ import annotations

from typing import Any

# Geometry and initialisation. `heads` divides features * patch^2.
PRESETS: dict[str, dict[str, Any]] = {
    "ipt": dict(
        features=64,
        patch=3,
        heads=12,
        encoder_layers=12,
        decoder_layers=12,
        hidden=2304,
        tile=48,
        start="torch",
        input_scale=1.0,
    ),
    # 0.99 B parameters in few, wide layers: the features fill the 128 lanes of a matrix unit, and
    # the width can be divided among up to 2048 chips.
    "ipt_1b": dict(
        features=128,
        patch=4,
        heads=16,
        encoder_layers=8,
        decoder_layers=8,
        hidden=8192,
        tile=48,
        start="torch",
        input_scale=1.0,
    ),
    "ipt_deblur": dict(
        features=9,
        patch=8,
        heads=12,
        encoder_layers=12,
        decoder_layers=12,
        hidden=2304,
        tile=256,
        start="torch",
        input_scale=1.0,
    ),
    # The size of the weights that the package ships. The size of an attention head is 48, as in the
    # paper's model.
    "ipt_small": dict(
        features=16,
        patch=3,
        heads=3,
        encoder_layers=2,
        decoder_layers=2,
        hidden=576,
        tile=48,
        start="identity",
        input_scale=127.5,
    ),
    "tiny": dict(
        features=16,
        patch=3,
        heads=4,
        encoder_layers=2,
        decoder_layers=2,
        hidden=576,
        tile=48,
        start="identity",
        input_scale=127.5,
    ),
}


def preset(name: str) -> dict[str, Any]:
    """Returns the `model` part of a config with a preset's geometry.

    The dtype is float32, without rematerialisation.

    Raises:
      ValueError: the preset is unknown.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown model preset {name!r}; known: {', '.join(PRESETS)}")
    return dict(
        PRESETS[name],
        dtype="float32",
        remat="none",
        out_bias=False,
        norm_eps=1e-5,
        memory_norm=False,
        attention="auto",
    )
