"""Completion of the command line by the TAB key, and `ipt completion`, which sets it up.

The shell starts `ipt` with the unfinished line in the environment, and argcomplete answers with
what may follow. Nothing here imports jax, so that the answer comes at once. shtab, which writes
static code instead, was tried as well: its code does not complete the VALUE of
`--config.KEY=VALUE`, a second task after a comma, or weights that were downloaded since.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from typing import Any

from ipt_jax.errors import UserError
from ipt_jax.messages import say

# argcomplete's shell code sets it.
VARIABLE = "_ARGCOMPLETE"
SHELLS = ("bash", "zsh", "tcsh", "fish")
DESCRIPTION = (
    "Prints the code that makes a shell complete commands, flags, config keys, tasks and the names "
    'of weights by the TAB key. For bash, add eval "$(ipt completion bash)" to ~/.bashrc, and '
    'likewise for zsh in ~/.zshrc after compinit. For tcsh: eval "`ipt completion tcsh`" in '
    "~/.tcshrc. For fish: ipt completion fish > ~/.config/fish/completions/ipt.fish"
)
Completer = Callable[..., list[str]]


def add_parser(commands: Any) -> None:
    """Adds the command to the sub-parsers of `ipt`."""
    parser = commands.add_parser(
        "completion",
        allow_abbrev=False,
        help="complete commands and flags by TAB in a shell",
        description=DESCRIPTION,
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell")
    parser.set_defaults(run=print_code)


def print_code(options: argparse.Namespace) -> int:
    """Runs `ipt completion`; returns 0.

    Raises:
      UserError: argcomplete is not installed.
    """
    try:
        import argcomplete
    except ImportError:
        raise UserError("ipt completion needs argcomplete: pip install argcomplete") from None
    say(argcomplete.shellcode(["ipt"], shell=options.shell).strip())
    return 0


def answer(parser: argparse.ArgumentParser) -> None:
    """Answers a shell that asks for completions, and ends the process; returns if none asks."""
    if VARIABLE not in os.environ:
        return
    try:
        import argcomplete
    except ImportError:
        return
    line = os.environ.get("COMP_LINE", "")
    for one in _parsers(parser):
        if "--config." in line and any(action.dest == "config" for action in one.arguments):
            _add_config_keys(one)
        for action in one.arguments:
            completer = _completer_of(action)
            if completer is not None:
                action.completer = completer  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser)


def _parsers(parser: Any) -> Iterator[Any]:
    """Yields a parser and those of its commands."""
    yield parser
    for command in parser.commands.values():
        yield from _parsers(command)


def _add_config_keys(parser: argparse.ArgumentParser) -> None:
    """Adds `--config.KEY` for each config key, with its choices."""
    from ipt_jax.config.keys import KEYS

    for name, key in KEYS.items():
        choices = key.allowed if isinstance(key.allowed, tuple) else None
        if isinstance(key.default, bool):
            choices = ("true", "false")
        parser.add_argument(f"--config.{name}", choices=choices, help=key.help.replace("%", "%%"))


def _completer_of(action: argparse.Action) -> Completer | None:
    """Returns the completer of an argument; None where argcomplete's, for files, is right."""
    from argcomplete.completers import DirectoriesCompleter, FilesCompleter

    by_name: dict[str, Any] = {
        "task": complete_tasks,
        "weights_tasks": complete_tasks,
        "weights": complete_weights,
        "config.tasks": complete_tasks,
        "config.init_from": complete_weights,
        "config": FilesCompleter(["py"]),
        "workdir": DirectoriesCompleter(),
        "data": DirectoriesCompleter(),
        "data_dir": DirectoriesCompleter(),
    }
    return None if action.choices is not None else by_name.get(action.dest)


def complete_tasks(prefix: str, **_: Any) -> list[str]:
    """Returns the tasks that may end a comma-separated list."""
    from ipt_jax.tasks import TASKS

    before, comma, last = prefix.rpartition(",")
    used = before.split(",")
    return [before + comma + name for name in TASKS if name.startswith(last) and name not in used]


def complete_weights(prefix: str, **settings: Any) -> list[str]:
    """Returns the names and addresses of weights, and files, that begin so."""
    from argcomplete.completers import FilesCompleter

    from ipt_jax.weights import web
    from ipt_jax.weights.default import shipped

    names = [*shipped(), *(address for address, _ in web.cached())]
    files = FilesCompleter()(prefix, **settings)
    return [name for name in names if name.startswith(prefix)] + list(files)
