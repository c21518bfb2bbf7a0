"""JSON files of a run that carry a checksum, so that damage is noticed when they are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_KEY = "checksum"


class DamagedRecord(ValueError):
    """A file is not what was written; the message says why."""


def encode_record(content: Mapping[str, Any]) -> str:
    """Returns a record as JSON with a checksum. Raises TypeError if the content is not JSON."""
    # The checksum is that of the record as it will be read: keys are strings, tuples are lists.
    content = json.loads(json.dumps(content))
    return json.dumps({**content, _KEY: _checksum(content)}, indent=1) + "\n"


def decode_record(data: bytes) -> dict[str, Any]:
    """Returns the content of a record, without its checksum.

    Records of version 0.1 have no checksum and are read unchecked.

    Raises:
      DamagedRecord: the bytes are not a JSON object, or the checksum differs.
    """
    try:
        content = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise DamagedRecord(f"it is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise DamagedRecord("it is not a JSON object")
    if _KEY in content and content.pop(_KEY) != _checksum(content):
        raise DamagedRecord("its checksum does not match")
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
