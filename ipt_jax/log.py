"""The package's logger, and how it is set up by the command line."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

from absl import logging as absl_logging

from ipt_jax import messages
from ipt_jax.messages import without_controls

logger = logging.getLogger("ipt_jax")

_TIME = "%H:%M:%S"


class _Formatter(logging.Formatter):
    """Formats messages without the control characters that names of files may contain."""

    def format(self, record: logging.LogRecord) -> str:
        return without_controls(super().format(record))


def setup() -> None:
    """Sends the package's log to stderr, one line per message, and silences the libraries.

    The stream is guarded, so a message that cannot be written is lost and raises nothing.
    """
    handler = logging.StreamHandler(messages.stderr())
    handler.setFormatter(_Formatter("%(asctime)s %(levelname).1s %(message)s", _TIME))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # logging.getLogger("absl") would create a plain logger if absl has not been imported. absl
    # would then fail to tell where its messages come from.
    absl_logging.get_absl_logger().setLevel(logging.ERROR)
    # They log the errors that they then raise, or that they get over by another try.
    for name in ("gcsfs", "fsspec", "google", "urllib3", "aiohttp"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def for_process(index: int) -> None:
    """Adapts the log to a run on several processes.

    Process 0 logs everything; the others log warnings and errors only, with their index.
    """
    if index:
        logger.setLevel(logging.WARNING)
        text = f"%(asctime)s %(levelname).1s [process {index}] %(message)s"
        for handler in logger.handlers:
            handler.setFormatter(_Formatter(text, _TIME))


@contextlib.contextmanager
def extra(what: object) -> Iterator[None]:
    """Logs an error of the file system instead of raising it, in a block that writes an extra.

    A full disk, or one that cannot be written to, must not end a run because of an image or a
    table.

    Args:
      what: the file, for the message.
    """
    try:
        yield
    # Clients of object stores raise errors of their own beside OSError.
    except Exception as error:
        logger.error("%s could not be written: %s", what, error)


# Seconds after which a block says what it waits for, and between two such messages.
PATIENCE = 30.0


@contextlib.contextmanager
def waiting_for(what: object) -> Iterator[None]:
    """Logs what a block waits for, every `PATIENCE` seconds.

    Storage that does not answer is asked again for minutes by the clients of object stores, without
    a word.

    Args:
      what: for the message, such as "the save of step 200 in gs://bucket/run".
    """
    over, begun = threading.Event(), time.monotonic()

    def report() -> None:
        while not over.wait(PATIENCE):
            logger.warning("waiting for %s, %.0f s so far", what, time.monotonic() - begun)

    thread = threading.Thread(target=report, name="ipt-waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
