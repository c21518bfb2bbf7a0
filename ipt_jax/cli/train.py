"""`ipt pretrain` and `ipt finetune`: train as a config file says, in a run's folder."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

from ipt_jax.cli.flags_config import add_help_config
from ipt_jax.cli.flags_processes import add_process_flags, start_options
from ipt_jax.distributed import start

RESUME = "To resume a run, repeat the command."
PRETRAIN = f"Trains as a config file says, in a run's folder. {RESUME}"
FINETUNE = f"""Trains from pre-trained weights (--config.init_from=WEIGHTS). The body is loaded, and
every task that the weights and the config share. Other tasks of the weights are dropped; new tasks
get a new head, tail and embedding. A table shows what was loaded. The size of the network is that
of the weights. {RESUME}"""


def add_parser(commands: Any) -> None:
    """Adds `ipt pretrain` and `ipt finetune`."""
    pretrain = commands.add_parser(
        "pretrain",
        allow_abbrev=False,
        help="train on images that are degraded on the fly",
        description=PRETRAIN,
        epilog="Every key of the config (--help-config lists them) can be set: "
        "--config.batch_size=48 --config.data.dir=photos",
    )
    _add_flags(pretrain, "configs/demo.py; FILE:ARGUMENT passes an argument to its get_config")
    pretrain.set_defaults(run=run_pretrain)

    finetune = commands.add_parser(
        "finetune",
        allow_abbrev=False,
        help="train from pre-trained weights",
        description=FINETUNE,
        epilog="Every key of the config (--help-config lists them) can be set: "
        "--config.data.dir=DIV2K --config.finetune.lora_rank=4",
    )
    _add_flags(finetune, "configs/finetune_sr2.py")
    finetune.set_defaults(run=run_finetune)


def _add_flags(command: argparse.ArgumentParser, example: str) -> None:
    """Adds the flags that both commands have."""
    command.add_argument(
        "--config", required=True, metavar="FILE", help=f"a config file, e.g. {example}"
    )
    command.add_argument("--workdir", required=True, metavar="DIR", help="the run's folder")
    command.add_argument(
        "--force-config",
        action="store_true",
        help="resume even if the config differs from that of the run in the folder",
    )
    add_help_config(command)
    add_process_flags(command)


def run_pretrain(options: argparse.Namespace) -> int:
    """Runs `ipt pretrain`; returns its exit code."""

    def load() -> Any:
        from ipt_jax import config

        return config.load(options.config, options.overrides)

    return _train(options, load)


def run_finetune(options: argparse.Namespace) -> int:
    """Runs `ipt finetune`; returns its exit code.

    Raises:
      ConfigError: neither `init_from` nor a run to resume.
    """
    return _train(
        options, lambda: finetune_config(options.config, options.overrides, options.workdir)
    )


def _train(options: argparse.Namespace, load_config: Callable[[], Any]) -> int:
    """Trains, on all processes of the run together; returns the exit code."""
    with start.together(start_options(options)):
        # The imports are local because a process that waits for the others needs no jax.
        from ipt_jax.distributed import devices
        from ipt_jax.run_folder.folder import COMPILED
        from ipt_jax.train.loop import pretrain

        devices.cache_programs(os.path.join(os.path.expanduser(options.workdir), COMPILED))
        outcome = pretrain(load_config(), options.workdir, options.force_config)
    return 0 if outcome.finished else int(options.stopped_code)


def finetune_config(file: str, overrides: list[str], workdir: str) -> Any:
    """Returns the config of a fine-tuning run. The network's size is that of the weights.

    The size comes from the run in the folder, if there is one, else from `init_from`. A config
    that asks for another size is refused.

    Raises:
      ConfigError: no `init_from`, or an invalid config.
      WeightsError: the weights are missing or do not fit.
    """
    from ipt_jax import config
    from ipt_jax.config.recorded import read_recorded
    from ipt_jax.errors import ConfigError
    from ipt_jax.run_folder.folder import CONFIG
    from ipt_jax.storage import expanded
    from ipt_jax.weights import load

    record = expanded(workdir) / CONFIG
    unchecked = config.load(file, overrides, checked=False)
    if record.exists():
        model = read_recorded(record.parent)["config"]["model"]
    elif unchecked.init_from:
        model = load.geometry_of(unchecked.init_from)
    else:
        raise ConfigError(
            "init_from is empty: give pre-trained weights by --config.init_from=WEIGHTS; "
            "`ipt pretrain` takes the same configs and starts from random weights"
        )
    return config.load(file, overrides, model=model)
