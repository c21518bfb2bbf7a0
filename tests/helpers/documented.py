"""`ipt` for the commands of the documentation: the same program with the smallest settings.

`python documented.py ARGUMENTS` runs `ipt ARGUMENTS`. Training takes one step of two samples a
task by a tiny network, and scoring takes one image of a set.
"""

from __future__ import annotations

import pathlib
import shutil
import sys

from ipt_jax import config
from ipt_jax.cli.app import main, make_parser, split_overrides

SMALL = ("steps=1", "epochs=0", "loss.group=2", "data.crops=1", "data.workers=0", "devices=1")
SMALL += ("data.held_out=1", "evaluate.every=0", "optim.accumulate=1", "optim.warmup_steps=0")
SMALL += ("log.tensorboard=false", "evaluate.pictures=1")
MODEL = ("features=4", "patch=4", "heads=2", "hidden=32", "tile=16")
MODEL += ("encoder_layers=1", "decoder_layers=1")
# Marks a folder that the test made in the place of the reader's run.
PREPARED = "prepared"


def shrunk(arguments: list[str]) -> list[str]:
    """Returns a command with settings behind it that make it short."""
    rest, overrides = split_overrides(arguments)
    options = make_parser().parse_args(rest)
    if options.command == "evaluate":
        return [*arguments, "--limit", "1"]
    if options.command not in ("pretrain", "finetune") and "preview" not in arguments:
        return arguments
    tasks = config.load(options.config, overrides, checked=False).tasks
    small = [*SMALL, f"batch_size={2 * len(tasks)}"]
    if options.command == "finetune":
        small = [one for one in small if not one.startswith("optim.warmup")]
    else:
        small += [f"model.{one}" for one in MODEL]
    if options.command == "data":
        return [*arguments, *(f"--config.{one}" for one in small)]
    workdir = pathlib.Path(options.workdir)
    if (workdir / PREPARED).exists():
        shutil.rmtree(workdir)
    return [*arguments, *(f"--config.{one}" for one in small)]


if __name__ == "__main__":
    sys.exit(main(shrunk(sys.argv[1:])))
