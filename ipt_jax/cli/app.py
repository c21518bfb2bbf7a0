"""The program `ipt`: parses the command line, runs a command, turns errors into exit codes."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from ipt_jax import log, messages
from ipt_jax.cli import completion
from ipt_jax.errors import RunError, UsageError, UserError, threads_hang
from ipt_jax.messages import nearest, say_error, without_controls
from ipt_jax.versions import __version__

PROGRAM = "ipt"
# Each module has a function `add_parser(commands)`. The modules import jax and other slow packages
# only when a command runs, so that help texts appear quickly.
MODULES = (
    "ipt_jax.cli.train",
    "ipt_jax.cli.evaluate",
    "ipt_jax.cli.restore",
    "ipt_jax.cli.serve",
    "ipt_jax.cli.weights",
    "ipt_jax.cli.push",
    "ipt_jax.cli.doctor",
    "ipt_jax.cli.compile",
    "ipt_jax.cli.completion",
)
# Groups of commands: `ipt data prepare` and so on.
GROUPS = {
    "data": ("prepare, check and preview data", "ipt_jax.cli.data"),
    "bench": ("measure speed", "ipt_jax.cli.bench"),
}


class Parser(argparse.ArgumentParser):
    """A parser that answers wrong usage with one line, the nearest known name and exit code 2.

    Attributes:
      commands: the parser of each sub-command, by name.
      arguments: what `add_argument` added.
    """

    def __init__(self, **options: Any):
        self.arguments: list[argparse.Action] = []
        super().__init__(**options)
        self.commands: dict[str, Parser] = {}

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """Adds an argument as `argparse` does, and remembers it."""
        action = super().add_argument(*names, **settings)
        self.arguments.append(action)
        return action

    def add_commands(self, dest: str) -> Any:
        """Adds sub-commands; returns the object whose `add_parser` adds one."""
        sub_parsers = self.add_subparsers(dest=dest, required=True, metavar="COMMAND")
        self.commands = sub_parsers.choices
        return sub_parsers

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parses arguments, and refuses unknown ones.

        argparse leaves the unknown arguments of a sub-command to the top parser, which does not
        know the sub-command's flags and could not name the nearest.
        """
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flags = re.findall(r"--[\w-]+", self.format_usage())
            hint = nearest(unknown[0].split("=")[0], flags)
            self.error(f"unknown argument {unknown[0]}{hint}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """Prints one line and exits with code 2."""
        if "invalid choice" in message and self.commands:
            wrong = message.split("'")[1]
            known = ", ".join(self.commands)
            message = f"unknown command {wrong!r}{nearest(wrong, self.commands)}; known: {known}"
        self.exit(2, f"{self.prog}: {message}\n")


def make_parser() -> Parser:
    """Returns the parser of all commands. Each command's module adds its own flags."""
    parser = Parser(
        prog=PROGRAM,
        description="Trains and runs IPT, the Pre-Trained Image Processing Transformer.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_commands("command")
    for module in MODULES:
        importlib.import_module(module).add_parser(commands)
    for name, (about, module) in GROUPS.items():
        group = commands.add_parser(name, allow_abbrev=False, help=about, description=about)
        importlib.import_module(module).add_parser(group.add_commands(f"{name}_command"))
    return parser


# Options whose values may be addresses, such as gs://bucket/run. Other paths are local: a local
# folder named "gs:" would be made for the results of `--json gs://bucket/scores.json`.
ADDRESSES = ("weights", "workdir", "data_dir", "set", "overrides", "run", "repository")


def check_local(options: argparse.Namespace) -> None:
    """Checks that no option that needs a local path holds an address.

    Raises:
      UsageError: one does; the message names it.
    """
    # The import is local because etils takes a moment.
    from ipt_jax.storage import scheme_of

    for name, value in vars(options).items():
        for one in value if isinstance(value, list) else [value]:
            if name in ADDRESSES or not isinstance(one, (str, os.PathLike)) or not scheme_of(one):
                continue
            raise UsageError(
                f"{os.fspath(one)} ({name.replace('_', '-')}): only a local path is possible here; "
                "copy from or to a bucket by its own command, such as gcloud storage cp -r"
            )


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates config overrides from the other arguments.

    Args:
      arguments: of the command line. An override is `--config.KEY=VALUE` or `--config.KEY VALUE`.

    Returns:
      The other arguments, and the overrides as `KEY=VALUE`. A last override without a value is
      returned as `KEY`, and refused by `config.load`.
    """
    rest: list[str] = []
    overrides: list[str] = []
    key = ""
    for argument in arguments:
        if key:
            overrides.append(f"{key}={argument}")
            key = ""
        elif argument.startswith("--config."):
            override = argument.removeprefix("--config.")
            if "=" in override:
                overrides.append(override)
            else:
                key = override
        else:
            rest.append(argument)
    return rest, overrides + [key] * bool(key)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      arguments: of the command line; by default those of this process.

    Returns:
      The exit code: 0 done, 1 a failure while running, 2 invalid usage or input.
    """
    # Names of files may hold bytes that are no text, and a terminal may know few characters.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if arguments is None:
        messages.guard_process()
        return _main(sys.argv[1:], program=True)
    with messages.guarded():
        return _main(arguments, program=False)


def _main(arguments: Sequence[str], *, program: bool) -> int:
    """Runs a command with guarded output.

    Args:
      arguments: of the command line.
      program: whether this process is the `ipt` program itself.
    """
    rest, overrides = split_overrides(arguments)
    parser = make_parser()
    if program:
        completion.answer(parser)
    options = parser.parse_args(rest)
    if overrides and not hasattr(options, "config"):
        parser.error(f"{options.command} has no config, so it takes no --config.KEY")
    options.overrides = overrides
    log.setup()
    code = 1
    try:
        code = _run(options)
    finally:
        if threads_hang(program=program):
            if sys.exc_info()[0] is not None:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return code


def _run(options: argparse.Namespace) -> int:
    """Runs the command of parsed options, and turns its errors into one line and an exit code."""
    try:
        check_local(options)
        return int(options.run(options))
    except (RunError, OSError) as error:
        message, code = str(error), 1
    except UserError as error:
        message, code = str(error), 2
    except KeyboardInterrupt:
        message, code = "interrupted", 1
    # A message may contain the name of a file, which can hold anything.
    say_error(f"{PROGRAM}: {without_controls(message)}")
    return code
