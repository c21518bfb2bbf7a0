"""The command line: `ipt COMMAND`. A module a command, or a group of commands."""

from ipt_jax.cli.app import main

__all__ = ["main"]
