"""Configs: the table of keys, their defaults, config files, overrides and checks.

`load`, `complete` and `default` can be imported from here. They are looked up on first use, so that
importing this package imports none of its modules.
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
