"""The command line, `ipt COMMAND`. Each module has one command or one group of commands."""

from ipt_jax.cli.app import main

__all__ = ["main"]
