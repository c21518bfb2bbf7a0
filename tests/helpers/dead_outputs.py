"""Standard outputs to which nothing can be written, for real processes."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Sequence
from typing import Any

KINDS = ("closed", "full disk", "no reader", "dead terminal")


def start(run: Sequence[str], kind: str, **options: Any) -> subprocess.Popen[Any]:
    """Starts a command whose stdout and stderr are of a kind."""
    if kind == "closed":
        return subprocess.Popen(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *run], **options)
    if kind == "full disk":
        reader, writer = -1, os.open("/dev/full", os.O_WRONLY)
    else:
        reader, writer = os.pipe() if kind == "no reader" else pty.openpty()
    try:
        # The reader stays in this process only, and is closed after the start.
        return subprocess.Popen(run, stdout=writer, stderr=writer, **options)
    finally:
        os.close(writer)
        if reader >= 0:
            os.close(reader)
