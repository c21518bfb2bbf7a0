"""The training images of a run, and the length of its epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ml_collections import ConfigDict

from ipt_jax.config.resolve import data_of
from ipt_jax.data import pipeline
from ipt_jax.data.sources.folder import Folder
from ipt_jax.data.sources.pairs import Pairs
from ipt_jax.data.sources.source import Source, open_source
from ipt_jax.log import logger


def open_data(config: ConfigDict) -> tuple[ConfigDict, Source]:
    """Opens the training images.

    Returns:
      A copy of the config with the values that depend on the data filled in (the scale of pairs,
      and `steps` if `epochs` is set), and the images.

    Raises:
      DataError: the data cannot be used, or the scale of the pairs is not that of the task.
    """
    source = open_source(data_of(config), "train")
    if isinstance(source, (Folder, Pairs)) and source.left_out:
        logger.warning("data.dir=%s: %s", config.data.dir, source.left_out)
    config = ConfigDict(config.to_dict())
    if (
        isinstance(source, Pairs)
        and isinstance(config.tasks[0], Mapping)
        and config.tasks[0].get("degradation") == "pairs"
    ):
        config.tasks = ({**config.tasks[0], "scale": source.scale},)
    if config.epochs:
        config.steps = _steps_of_epochs(config, len(source))
    return config, source


def _steps_of_epochs(config: ConfigDict, images: int) -> int:
    """Returns the number of steps in `epochs` epochs, and logs how it was computed."""
    drawn = len(config.tasks) if config.data.draw == "all" else 1
    crops = config.data.epoch_crops or config.data.crops
    samples = pipeline.epoch_pictures(images, config.loss.group) * crops * drawn
    steps = max(1, math.ceil(config.epochs * samples / config.batch_size))
    logger.info(
        "an epoch is %d crop(s) of each of the %d images%s: %d samples, %.1f steps of %d; %d "
        "epoch(s) are %d steps",
        crops,
        images,
        f" for each of {drawn} tasks" if drawn > 1 else "",
        samples,
        samples / config.batch_size,
        config.batch_size,
        config.epochs,
        steps,
    )
    return steps
