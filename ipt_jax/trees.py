"""Nested dicts and flat names."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys -> values; lists and tuples are values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, (Mapping, ConfigDict)):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


Tree = dict[str, Any]


def paths(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(path, leaf) of nested dicts."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from paths(value, f"{prefix}{key}/")
        else:
            yield prefix + key, value


def nested(flat: Mapping[str, Any]) -> Tree:
    """The inverse of `paths`."""
    tree: Tree = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a path, or what it lies in, is one of the patterns: `body`, `body/encoder/*`,
    `*/tail`, `*norm*`.
    """
    parts = path.split("/")
    inside = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    return any(
        fnmatch.fnmatchcase(place, pattern.rstrip("/")) for pattern in patterns for place in inside
    )
