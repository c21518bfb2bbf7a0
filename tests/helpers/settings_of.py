"""Lists every setting: the flags and arguments of each command and script, and the config's keys.

The names are those of tests/helpers/guards.py: "ipt data check --crop", "ipt restore INPUT",
"launch/tpu.sh --zone", "optim.b1".
"""

from __future__ import annotations

import re

import places

from ipt_jax.cli.app import Parser, make_parser
from ipt_jax.config.keys import TABLE

# A row of a help text: two spaces, and the names of a flag or the name of an argument.
ROW = re.compile(r"^  (?=\S)(.*?)(?:   *.*)?$", re.MULTILINE)
# An arm of the `case` that reads the flags of a script.
ARM = re.compile(r"^    (--\w[^)]*)\)(.*(?:\n      .*)*)", re.MULTILINE)


def parsers(parser: Parser | None = None) -> dict[str, Parser]:
    """Returns the parser of each command by its name, "ipt data check"; "ipt" is the program."""
    parser = parser or make_parser()
    found = {parser.prog: parser}
    for command in parser.commands.values():
        found |= parsers(command)
    return found


def arguments_of(parser: Parser) -> list[str]:
    """Returns the arguments of a command, and its flags by their first long names."""
    found = []
    # The description stands before the sections and has no rows.
    for row in ROW.findall(parser.format_help()):
        flags = re.findall(r"(?<!\S)--[\w-]+", row)
        if flags:
            found.append(flags[0])
        elif re.fullmatch("[A-Z]+", row) and not parser.commands:
            found.append(row)
    return found


def flags_of_script(name: str) -> dict[str, bool]:
    """Returns the flags that a script in launch/ reads, and whether each of them has a value."""
    text = (places.ROOT / "launch" / f"{name}.sh").read_text()
    return {
        flag: '"$@"' in body
        for names, body in ARM.findall(text)
        for flag in re.findall(r"--\w[\w-]*", names)
    }


def every_setting() -> list[str]:
    """Returns the names of all settings."""
    found = [
        f"{command} {argument}"
        for command, parser in parsers().items()
        for argument in arguments_of(parser)
    ]
    for file in sorted((places.ROOT / "launch").glob("*.sh")):
        found += [f"launch/{file.name} {flag}" for flag in flags_of_script(file.stem)]
    return [*found, *(key.name for key in TABLE)]
