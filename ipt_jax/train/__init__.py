"""A run: its set-up, its loop, its evaluations, its end.

`pretrain` can be imported from here. It is looked up when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipt_jax.train.loop import pretrain

__all__ = ["pretrain"]


def __getattr__(name: str) -> Any:
    if name == "pretrain":
        from ipt_jax.train import loop

        return loop.pretrain
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
