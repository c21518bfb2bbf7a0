"""The network: layers, initialisation, presets, and which parameters are trained.

`IPT`, `build` and `preset` can be imported from this package. They are loaded on first use, so that
`preset` alone does not import jax.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipt_jax.model.ipt import IPT, build
    from ipt_jax.model.presets import preset

__all__ = ["IPT", "build", "preset"]


def __getattr__(name: str) -> Any:
    if name == "preset":
        from ipt_jax.model import presets

        return presets.preset
    if name in ("IPT", "build"):
        from ipt_jax.model import ipt

        return getattr(ipt, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
