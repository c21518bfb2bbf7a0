"""The default config, and which keys may change, from the table of keys."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from ipt_jax.config.keys import TABLE


def default() -> ConfigDict:
    """Returns a config with every key at its default."""
    tree: dict[str, Any] = {}
    for key in TABLE:
        *groups, last = key.name.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = key.default
    return ConfigDict(tree)


def _prefixes(attribute: str) -> tuple[str, ...]:
    """Names of the keys with an attribute; a group of only such keys is one prefix ("log.").

    A prefix also covers keys of the group that another version of the package has written.
    """
    groups = {
        group
        for group in {key.group for key in TABLE if key.group}
        if all(getattr(key, attribute) for key in TABLE if key.group == group)
    }
    names = (
        f"{key.group}." if key.group in groups else key.name
        for key in TABLE
        if getattr(key, attribute)
    )
    return tuple(dict.fromkeys(names))


# What a resumed run may change, as names or prefixes; another difference makes it another run.
MAY_CHANGE = _prefixes("resume")

# What a branch of a run (branch_from) may change in addition.
BRANCH_MAY_CHANGE = _prefixes("branch")

# What may differ between the processes of a run, as names: how a host reads its data.
PER_HOST = tuple(key.name for key in TABLE if key.per_host)
