"""The flags of commands that can run on several processes."""

from __future__ import annotations

import argparse

from ipt_jax.distributed.discovery import START_TIMEOUT, VARIABLES, StartOptions

# Name without dashes, metavar, help.
_FLAGS = (
    ("coordinator", "HOST:PORT", "the address where process 0 listens"),
    ("num-processes", "N", "the number of processes; 1 trains with this process alone"),
    ("process-id", "I", "the index of this process, from 0"),
    (
        "start-timeout",
        "SECONDS",
        f"how long to wait for all processes to start (default {START_TIMEOUT:.0f})",
    ),
)


def add_process_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags to a command that trains."""
    group = parser.add_argument_group(
        "several processes",
        "TPU pods, GKE and Slurm are recognised. Elsewhere, give the first three flags, or the "
        "environment variables in brackets.",
    )
    for name, metavar, text in _FLAGS:
        group.add_argument(
            f"--{name}", default="", metavar=metavar, help=f"{text} [{VARIABLES[name][0]}]"
        )
    group.add_argument(
        "--stopped-code",
        type=int,
        default=0,
        metavar="N",
        help="the exit code after a signal has stopped the run before its end and the run has been "
        "saved (default 0); a launcher can then start the run again",
    )


def start_options(options: argparse.Namespace) -> StartOptions:
    """Returns the values of the flags of `add_process_flags`."""
    return StartOptions(
        options.coordinator, options.num_processes, options.process_id, options.start_timeout
    )
