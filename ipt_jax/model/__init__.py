"""The network: `IPT`, its parts, its starts and its presets."""

from ipt_jax.model.ipt import IPT, build
from ipt_jax.model.presets import preset

__all__ = ["IPT", "build", "preset"]
