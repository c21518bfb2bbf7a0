"""A run: set-up, loop, evaluations, end.

`ipt_jax.train.pretrain` is the one public function. It is imported at its first use, so that
importing this package loads no JAX.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipt_jax.train.loop import pretrain

__all__ = ["pretrain"]


def __getattr__(name: str) -> Any:
    if name == "pretrain":
        from ipt_jax.train.loop import pretrain

        return pretrain
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
