"""What a run says: metrics.jsonl, TensorBoard events, the progress line."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from absl import logging as absl_logging

logger = logging.getLogger("ipt_jax")


def setup() -> None:
    """The package's log goes to stderr, one line a message, without the libraries' chatter."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # Not by its name, which would make another logger where absl has not been imported, one that
    # cannot tell who speaks.
    absl_logging.get_absl_logger().setLevel(logging.ERROR)


def for_process(index: int) -> None:
    """In a run on several processes: process 0 says all, the others only what is wrong, with their
    number.
    """
    if index:
        logger.setLevel(logging.WARNING)
        for handler in logger.handlers:
            handler.setFormatter(
                logging.Formatter(
                    f"%(asctime)s %(levelname).1s [process {index}] %(message)s", "%H:%M:%S"
                )
            )


@contextlib.contextmanager
def extra(what: object) -> Iterator[None]:
    """Pictures, tables and the like: a full disk, or one that cannot be written to, is said and
    ends no run for them.
    """
    try:
        yield
    except OSError as error:
        logger.error("%s could not be written: %s", what, error)
