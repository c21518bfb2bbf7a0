"""`ipt compile`: compiles the training step for a TPU slice, on a machine without one."""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

from ipt_jax.errors import UserError
from ipt_jax.messages import say
from ipt_jax.tpu.estimate import UTILISATION

DESCRIPTION = """Compiles the training step of `ipt pretrain` for a TPU slice, on a machine without
one; the extra `compile` installs the compiler. Prints the memory that the step needs on each chip,
the bytes that it moves, its FLOPs, its collectives and an estimated step time. If the step does not
fit, the exit code is 1, and the report says by how much and which settings would fit. Compiling
takes minutes."""


def add_parser(commands: Any) -> None:
    """Adds `ipt compile`."""
    command = commands.add_parser(
        "compile",
        allow_abbrev=False,
        help="compile for a TPU slice, without having one",
        description=DESCRIPTION,
    )
    command.add_argument(
        "--config",
        required=True,
        metavar="FILE",
        help="a config file; FILE:ARGUMENT passes an argument to its get_config",
    )
    command.add_argument(
        "--topology",
        required=True,
        metavar="NAME",
        help="the shape of a slice: v5e:16x16, v4:2x2x2, v5p:2x2x1, v6e:2x4, ...",
    )
    command.add_argument(
        "--slices",
        type=int,
        default=1,
        metavar="N",
        help="the number of slices, connected by the data-centre network (default: 1)",
    )
    command.add_argument(
        "--batch-per-chip",
        type=int,
        default=0,
        metavar="N",
        help="samples on each chip (default: from the config)",
    )
    command.add_argument(
        "--utilisation",
        type=float,
        default=UTILISATION,
        metavar="SHARE",
        help="the assumed share of a chip's peak, for the estimated step time "
        f"(default: {UTILISATION})",
    )
    command.add_argument(
        "--by-kind",
        action="store_true",
        help="also print HBM bytes, FLOP and time by the roofline for each part of the model",
    )
    command.add_argument("--json", metavar="FILE", help="also write the report to this file")
    command.add_argument(
        "--hlo", metavar="FILE", help="also write the compiled program to this file"
    )
    command.set_defaults(run=run_compile)


def run_compile(options: argparse.Namespace) -> int:
    """Runs `ipt compile`; returns 1 if the step does not fit.

    Raises:
      UserError: the config, topology, compiler or an output folder is missing, or the batch size
        does not divide.
      RunError: the compiler refuses the step for another reason than memory.
    """
    from ipt_jax import config
    from ipt_jax.config import checks, resolve
    from ipt_jax.tpu import chips
    from ipt_jax.tpu.compile import compile_step_for, describe_kinds, describe_report

    topology = chips.find_topology(options.topology, options.slices)
    if not 0 < options.utilisation <= 1:
        raise UserError(
            f"--utilisation={options.utilisation}: must be a share of the peak, above 0 and at "
            "most 1"
        )
    if options.batch_per_chip < 0:
        raise UserError(f"--batch-per-chip={options.batch_per_chip}: must be at least 1")
    # Checked before compiling, which takes minutes.
    for flag, file in (("json", options.json), ("hlo", options.hlo)):
        if file and not pathlib.Path(file).absolute().parent.is_dir():
            raise UserError(f"--{flag}={file}: there is no folder {pathlib.Path(file).parent}")
    settings = config.load(options.config, [*options.overrides, "devices=0"])
    if options.batch_per_chip:
        settings.batch_size = options.batch_per_chip * topology.chips
    checks.check_batch(settings, len(settings.tasks), topology.chips, 1)
    report, program = compile_step_for(resolve.resolve(settings), topology, options.utilisation)
    say(describe_report(report))
    if options.by_kind and report["traffic"] is not None:
        say(describe_kinds(report))
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    if options.hlo and program:
        pathlib.Path(options.hlo).write_text(program)
    return 0 if report["fits"] else 1
