"""Versions of this package and of those that its numbers depend on."""

from __future__ import annotations

from importlib import metadata


def versions(*packages: str) -> dict[str, str]:
    """Versions of installed packages."""
    return {name: metadata.version(name) for name in packages}
