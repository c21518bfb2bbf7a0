"""`ipt finetune`: one or several tasks from pre-trained weights."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from ipt_jax.cli import flags_processes
from ipt_jax.distributed import start as distributed

DESCRIPTION = """Trains as a config file says, from pre-trained weights (--config.init_from=WEIGHTS): the body and the
tasks that both know are loaded, other tasks of the weights are dropped, new ones get a new head, tail and embedding, and
a table says so. The network's size is that of the weights. The same command goes on where it stopped."""


def add_parser(commands: Any) -> None:
    """Adds the command to the sub-parsers of `ipt`."""
    command = commands.add_parser(
        "finetune",
        allow_abbrev=False,
        help="train on from pre-trained weights",
        description=DESCRIPTION,
        epilog="Every key of the config (ipt_jax/config.py) can be set: --config.data.dir=DIV2K "
        "--config.finetune.lora_rank=4",
    )
    command.add_argument(
        "--config",
        required=True,
        metavar="FILE",
        help="a config file, e.g. configs/finetune_sr2.py",
    )
    command.add_argument("--workdir", required=True, metavar="DIR", help="the run's folder")
    command.add_argument(
        "--force-config", action="store_true", help="go on in a folder whose run differs, knowingly"
    )
    flags_processes.add_process_flags(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs `ipt finetune`. Raises ConfigError without `init_from`, unless the folder's run is
    begun.
    """
    from ipt_jax.distributed import devices
    from ipt_jax.train import loop as train

    with distributed.together(flags_processes.start_options(options)):
        devices.cache_programs(os.path.join(os.path.expanduser(options.workdir), "compiled"))
        config = settings(options.config, options.overrides, options.workdir)
        done = train.pretrain(config, options.workdir, options.force_config)
    return 0 if done.finished else int(options.stopped_code)


def settings(file: str, overrides: list[str], workdir: str) -> Any:
    """The whole config: the network's size is the weights', so that what is asked for otherwise is
    seen to differ.

    Raises:
      ConfigError: no `init_from`, or not a config.
      WeightsError: there are no such weights.
    """
    from etils import epath

    from ipt_jax.config import loading as configs
    from ipt_jax.errors import ConfigError
    from ipt_jax.weights import load

    begun = epath.Path(workdir).expanduser() / "config.json"
    first = configs.load(file, overrides, checked=False)
    if begun.exists():
        try:
            model = json.loads(begun.read_text())["config"]["model"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{begun} is not a run's config ({error!r}); name another folder"
            ) from None
    elif first.init_from:
        model = load.geometry_of(first.init_from)
    else:
        raise ConfigError(
            "init_from is empty: give pre-trained weights, --config.init_from=WEIGHTS; `ipt "
            "pretrain` takes the "
            "same configs and starts from scratch"
        )
    return configs.load(file, overrides, model=model)
