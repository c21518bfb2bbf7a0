"""The reference of config keys, as text for `--help-config` and as Markdown for the docs.

`python -m ipt_jax.config.reference > docs/config.md` writes the page again after a change of the
table of keys.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator

from ipt_jax.config.keys import GROUPS, TABLE, TYPES, Key, Range

COMMAND = "python -m ipt_jax.config.reference > docs/config.md"

_WIDTH = 100

_PAGE = f"""# Config keys

<!-- Generated from ipt_jax/config/keys.py by `{COMMAND}`. -->

A config file returns an `ml_collections.ConfigDict` with the keys that it changes; every other key
has its default. Each key can also be set on the command line: `--config.batch_size=48`,
`--config.data.dir=photos`. An unknown key or a value that is not allowed is an error that names the
key. `ipt pretrain --help-config` prints the same list.

The column "Resume" says which keys may change when a run is resumed in its folder:

- *yes*: the key may change.
- *yes, per host*: the key may change, and the processes of a run may have different values.
- *branch*: the key may change only in a branch of the run (`branch_from`), as may all keys with
  *yes*.
- *no*: another value makes another run, which is refused.
"""

_TEXT = """Each key can be set in the config file or on the command line: --config.KEY=VALUE.
A resumed run may change the keys marked "resume", a branch of a run also those marked "branch".
The processes of a run may have different values of the keys marked "per host".
"""


def text() -> str:
    """Returns all keys as plain text of at most 100 columns, grouped."""
    lines = [_TEXT]
    for group, title in GROUPS.items():
        lines.append(f"{title}:")
        for key in _keys(group):
            marks = {"resume": key.resume, "branch": key.branch, "per host": key.per_host}
            words = [values(key), *(mark for mark, applies in marks.items() if applies)]
            lines.append(f"  {key.name}={default_of(key)}  [{'; '.join(words)}]")
            lines += textwrap.wrap(
                key.help, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6
            )
        lines.append("")
    return "\n".join(lines)


def markdown() -> str:
    """Returns the page `docs/config.md`."""
    parts = [_PAGE]
    for group, title in GROUPS.items():
        rows = [
            f"| `{key.name}` | `{default_of(key)}` | {values(key)} | {resume(key)} | "
            f"{_escaped(key.help)} |\n"
            for key in _keys(group)
        ]
        parts.append(
            f"\n## {title}\n\n"
            "| Key | Default | Value | Resume | Meaning |\n|---|---|---|---|---|\n" + "".join(rows)
        )
    return "".join(parts)


def default_of(key: Key) -> str:
    """Returns a key's default as written on the command line, numbers with up to six digits."""
    value = key.default
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value) or "()"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value) if value != "" else '""'


def values(key: Key) -> str:
    """Returns what a key may be, in words: its choices, or its type and bounds."""
    if isinstance(key.allowed, tuple):
        return ", ".join(key.allowed)
    kind = TYPES[type(key.default)].removeprefix("an ").removeprefix("a ")
    return f"{kind}, {key.allowed}" if isinstance(key.allowed, Range) else kind


def resume(key: Key) -> str:
    """Returns the entry of the column "Resume"."""
    if key.resume:
        return "yes, per host" if key.per_host else "yes"
    return "branch" if key.branch else "no"


def _escaped(words: str) -> str:
    """Returns a text without Markdown emphasis."""
    return words.replace("*", r"\*")


def _keys(group: str) -> Iterator[Key]:
    return (key for key in TABLE if key.group == group)


if __name__ == "__main__":
    sys.stdout.write(markdown())
