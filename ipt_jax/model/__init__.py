"""The network: `IPT`, its parts, its starts and its presets."""

from ipt_jax.model.ipt import IPT, build, preset

__all__ = ["IPT", "build", "preset"]
