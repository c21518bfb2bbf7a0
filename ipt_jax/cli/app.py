"""The command line: `ipt COMMAND`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from ipt_jax.cli import flags_processes
from ipt_jax.distributed import start as distributed
from ipt_jax.messages import nearest
from ipt_jax.versions import __version__

PROGRAM = "ipt"
# Each has an `add_parser(commands)`; they import what is heavy only when a command runs.
MODULES = (
    "ipt_jax.cli.train",
    "ipt_jax.cli.evaluate",
    "ipt_jax.cli.restore",
    "ipt_jax.cli.serve",
    "ipt_jax.cli.weights",
    "ipt_jax.cli.doctor",
    "ipt_jax.tpu.compile",
)
GROUPS = {
    "data": (
        "prepare, check and look at data",
        ("ipt_jax.cli.data", "ipt_jax.data.prepare.inspect", "ipt_jax.data.prepare.preview"),
    ),
    "bench": ("measure", ("ipt_jax.bench.step", "ipt_jax.bench.data", "ipt_jax.bench.restore")),
}


class Parser(argparse.ArgumentParser):
    """One line and exit code 2 for wrong usage, with the nearest known flag or command."""

    def error(self, message: str) -> NoReturn:
        if "invalid choice" in message and self._subparsers is not None:
            wrong = message.split("'")[1]
            choices = next(
                a.choices for a in self._actions if isinstance(a, argparse._SubParsersAction)
            )
            message = (
                f"unknown command {wrong!r}{nearest(wrong, choices)}; known: {', '.join(choices)}"
            )
        self.exit(2, f"{self.prog}: {message}\n")


def parser() -> Parser:
    """All commands and their flags; each command's module brings its own."""
    top = Parser(
        prog=PROGRAM,
        description="Pre-trains and runs IPT, the Pre-Trained Image Processing Transformer.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_pretrain(commands)
    for module in MODULES:
        importlib.import_module(module).add_parser(commands)
    for name, (about, modules) in GROUPS.items():
        group = commands.add_parser(name, allow_abbrev=False, help=about, description=about)
        below = group.add_subparsers(dest=f"{name}_command", required=True, metavar="COMMAND")
        for module in modules:
            importlib.import_module(module).add_parser(below)
    return top


def _unknown_flag(options: argparse.Namespace, unknown: Sequence[str]) -> NoReturn:
    """argparse reports a sub-command's unknown flags at the top, where the command's own are not
    known.
    """
    sub: argparse.ArgumentParser = parser()
    for name in (options.command, getattr(options, f"{options.command}_command", None)):
        if name is not None:
            sub = next(
                a for a in sub._actions if isinstance(a, argparse._SubParsersAction)
            ).choices[name]
    known = [flag for action in sub._actions for flag in action.option_strings]
    raise SystemExit(
        sub.error(f"unknown argument {unknown[0]}{nearest(unknown[0].split('=')[0], known)}")
    )


def add_pretrain(commands: Any) -> None:
    """`ipt pretrain`."""
    command = commands.add_parser(
        "pretrain",
        allow_abbrev=False,
        help="train on pictures degraded on the fly",
        description="Trains as a config file says, in a folder of its own. The same command goes "
        "on where it stopped.",
        epilog="Every key of the config (ipt_jax/config.py) can be set: --config.batch_size=48 "
        "--config.data.dir=photos",
    )
    command.add_argument(
        "--config",
        required=True,
        metavar="FILE",
        help="a config file, e.g. configs/demo.py; FILE:ARGUMENT hands an argument to its "
        "get_config",
    )
    command.add_argument("--workdir", required=True, metavar="DIR", help="the run's folder")
    command.add_argument(
        "--force-config", action="store_true", help="go on in a folder whose run differs, knowingly"
    )
    flags_processes.add_process_flags(command)
    command.set_defaults(run=pretrain)


def pretrain(options: argparse.Namespace) -> int:
    """Runs `ipt pretrain`."""
    with distributed.together(flags_processes.start_options(options)):
        from ipt_jax.config import loading as config
        from ipt_jax.distributed import devices

        # Late: who waits for others needs no jax for it
        from ipt_jax.train import loop as train

        devices.cache_programs(os.path.join(os.path.expanduser(options.workdir), "compiled"))
        done = train.pretrain(
            config.load(options.config, options.overrides), options.workdir, options.force_config
        )
    return 0 if done.finished else int(options.stopped_code)


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the rest, `key=value`s): takes `--config.key=value` and `--config.key value` out of the
    arguments.
    """
    rest, overrides, waiting = [], [], ""
    for argument in arguments:
        if waiting:
            overrides.append(f"{waiting}={argument}")
            waiting = ""
        elif argument.startswith("--config."):
            name = argument.removeprefix("--config.")
            if "=" in name:
                overrides.append(name)
            else:
                waiting = name
        else:
            rest.append(argument)
    if waiting:
        # Without a value: config.load says so
        overrides.append(waiting)
    return rest, overrides


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0 done, 2 wrong usage or input, 1 a fault while
    running.
    """
    rest, overrides = split_overrides(sys.argv[1:] if arguments is None else arguments)
    options, unknown = parser().parse_known_args(rest)
    if unknown:
        _unknown_flag(options, unknown)
    if overrides and not hasattr(options, "config"):
        parser().error(f"{options.command} takes no --config.KEY")
    options.overrides = overrides

    # Late: jax takes a second to import, `ipt --help` should not
    from ipt_jax import log

    log.setup()
    code = 1
    try:
        code = _run(options)
    finally:
        if _hangs(program=arguments is None):
            if sys.exc_info()[0] is not None:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return code


def _hangs(program: bool) -> bool:
    """Whether threads are left that would be waited for at the end: for a dead storage, or in a
    save that has failed.
    """
    workers, orbax_calls = (
        sys.modules.get(f"ipt_jax.{name}")
        for name in ("data.workers", "checkpoints.orbax_workarounds")
    )
    return bool(
        (workers is not None and workers.hang())
        or (program and orbax_calls is not None and orbax_calls.hang())
    )


def _run(options: argparse.Namespace) -> int:
    from ipt_jax.errors import RunError, UserError

    try:
        return int(options.run(options))
    except (RunError, OSError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    except UserError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 1
