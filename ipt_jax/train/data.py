"""The training images of a run, and the length of its epochs."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

from ml_collections import ConfigDict

from ipt_jax.config.resolve import data_of
from ipt_jax.data import pipeline
from ipt_jax.data.sources.pairs import Pairs
from ipt_jax.data.sources.source import Source, open_source

logger = logging.getLogger("ipt_jax")


def open_data(config: ConfigDict) -> tuple[ConfigDict, Source]:
    """The training pictures, and the config with what only they settle: the scale of pairs, the
    steps of `epochs`.

    Raises:
      DataError: the data cannot be used, or pairs are of another scale than the task.
    """
    source = open_source(data_of(config), "train")
    config = ConfigDict(config.to_dict())
    if (
        isinstance(source, Pairs)
        and isinstance(config.tasks[0], Mapping)
        and config.tasks[0].get("degradation") == "pairs"
    ):
        config.tasks = ({**config.tasks[0], "scale": source.scale},)
    if not config.epochs:
        return config, source
    drawn = len(config.tasks) if config.data.draw == "all" else 1
    crops = config.data.epoch_crops or config.data.crops
    samples = pipeline.epoch_pictures(len(source), config.loss.group) * crops * drawn
    config.steps = max(1, math.ceil(config.epochs * samples / config.batch_size))
    tasks = f" for each of {drawn} tasks" if drawn > 1 else ""
    logger.info(
        "an epoch is %d crop(s) of each of the %d pictures%s: %d samples, %.1f steps of %d; %d "
        "epoch(s) are %d steps",
        crops,
        len(source),
        tasks,
        samples,
        samples / config.batch_size,
        config.batch_size,
        config.epochs,
        config.steps,
    )
    return config, source
