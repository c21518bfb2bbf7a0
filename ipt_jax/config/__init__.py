"""Configs: every key with its default, loading a config file, overrides, and checks.

`load`, `complete` and `default` can be imported from here. They are looked up when they are first
used, so that importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipt_jax.config.defaults import default
    from ipt_jax.config.loading import complete, load

__all__ = ["complete", "default", "load"]


def __getattr__(name: str) -> Any:
    if name in ("complete", "load"):
        from ipt_jax.config import loading

        return getattr(loading, name)
    if name == "default":
        from ipt_jax.config import defaults

        return defaults.default
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
