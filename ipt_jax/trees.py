"""Nested dicts and their flat forms: dotted keys of configs, paths of parameters."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

Tree = dict[str, Any]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns `{"a.b": value}` for nested dicts or ConfigDicts. Lists and tuples are values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, (Mapping, ConfigDict)):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def paths(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields the path and the value of each leaf of nested dicts, e.g. ("body/mlp/in/bias", x)."""
    # The import is local because it imports jax, which reading a config does not need.
    from flax.traverse_util import flatten_dict

    yield from flatten_dict(dict(tree), sep="/").items()


def nested(leaves: Mapping[str, Any]) -> Tree:
    """Returns nested dicts from `{path: value}`. This is the inverse of `paths`."""
    from flax.traverse_util import unflatten_dict

    return unflatten_dict(dict(leaves), sep="/")


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Returns whether a pattern matches a path or a parent of it.

    Patterns are those of `fnmatch`: `body`, `body/encoder/*`, `*/tail`, `*norm*`.
    """
    parts = path.split("/")
    parents = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    return any(
        fnmatch.fnmatchcase(parent, pattern.rstrip("/"))
        for pattern in patterns
        for parent in parents
    )
