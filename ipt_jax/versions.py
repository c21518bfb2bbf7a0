"""Versions of this package and of the packages that its numbers depend on."""

from __future__ import annotations

import functools
import sys
from importlib import metadata

# setup.py reads the version from this line.
__version__ = "0.1.0"

# The URL of the project, for model cards and notebooks; empty until it is published.
ADDRESS = ""

_NUMBERS_DEPEND_ON = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "opencv-python-headless",
)


@functools.cache
def versions() -> dict[str, str]:
    """Versions of this package, of Python, and of the installed packages that the numbers depend
    on.
    """
    return {
        "ipt_jax": __version__,
        "python": sys.version.split()[0],
        **versions_of(*_NUMBERS_DEPEND_ON),
    }


def versions_of(*packages: str) -> dict[str, str]:
    """Versions of those of the packages that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
