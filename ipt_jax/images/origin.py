"""What a result was made from: recorded in the result, so that later runs know it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ipt_jax.storage import open_regular

# The keyword of the text chunk of a PNG, and the only key of the JSON object elsewhere.
KEY = "ipt_jax"


@dataclasses.dataclass(frozen=True)
class Origin:
    """The source and the tasks of a result.

    Attributes:
      source: path of the source, relative to the folder of the result; only a name where the
        folder means nothing to the user.
      sha256: digest of the source's bytes, in hexadecimal.
      tasks: names of the tasks, in the order in which they were applied.
    """

    source: str
    sha256: str
    tasks: tuple[str, ...]

    def text(self) -> str:
        """Returns the record as one line of ASCII."""
        return json.dumps({KEY: dataclasses.asdict(self)})

    @classmethod
    def parse(cls, text: Any) -> Origin | None:
        """Returns the record in a text, or None if the text is not a record."""
        if not isinstance(text, str) or len(text) > 100_000 or f'"{KEY}"' not in text:
            return None
        try:
            found = json.loads(text)[KEY]
            source, digest, tasks = found["source"], found["sha256"], tuple(found["tasks"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        if not all(isinstance(value, str) for value in (source, digest, *tasks)):
            return None
        return cls(source, digest, tasks)


def digest_of(path: Path, limit: int | None = None) -> str:
    """Returns the SHA-256 of a regular file in hexadecimal.

    At most as many bytes are read as the file had when it was opened.

    Args:
      path: the file.
      limit: the most bytes that it may have.

    Raises:
      OSError: the file cannot be read, is not a regular file, or is larger than `limit`.
    """
    digest = hashlib.sha256()
    with open_regular(path, limit) as file:
        left = os.fstat(file.fileno()).st_size
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()
