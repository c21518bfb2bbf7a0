"""The flag `--help-config` of the commands that train."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ipt_jax.messages import say


class HelpConfig(argparse.Action):
    """Prints all config keys and exits with code 0; like `--help`, it needs no other argument."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Prints the keys. Raises SystemExit."""
        from ipt_jax.config import reference

        say(reference.text())
        parser.exit()


def add_help_config(command: argparse.ArgumentParser) -> None:
    """Adds `--help-config` to a command."""
    command.add_argument(
        "--help-config",
        action=HelpConfig,
        help="print every config key with its default and meaning, and exit",
    )
