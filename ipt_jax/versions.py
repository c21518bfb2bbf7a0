"""Versions of this package and of the packages that its results depend on."""

from __future__ import annotations

import functools
import sys

# setup.py reads the version from this line.
__version__ = "0.1.0"

# The project's URL, for model cards and notebooks; empty until the project is published.
ADDRESS = ""

# Another version of one of these packages may change the last bits of a result.
_RESULTS_DEPEND_ON = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "opencv-python-headless",
)


def install(extra: str) -> str:
    """Returns the command that installs an extra of this package, for messages."""
    from_clone = f"pip install -e '.[{extra}]'"
    if not ADDRESS:
        return f"{from_clone} in a clone of this package"
    return f"pip install 'ipt_jax[{extra}]' (from a clone: {from_clone})"


@functools.cache
def versions() -> dict[str, str]:
    """Returns the versions of this package, Python and the packages that results depend on."""
    return {
        "ipt_jax": __version__,
        "python": sys.version.split()[0],
        **versions_of(*_RESULTS_DEPEND_ON),
    }


def versions_of(*packages: str) -> dict[str, str]:
    """Returns the versions of the given packages; those that are not installed are left out."""
    # The import is local because it takes longer than the rest of `import ipt_jax`.
    from importlib import metadata

    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
