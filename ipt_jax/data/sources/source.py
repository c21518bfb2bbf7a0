"""The interface of all sources, and `open_source`, which opens the one that a config names.

A new kind of source is a class with these four methods and an entry in `open_source`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ipt_jax.data.sources.embedded import Embedded
from ipt_jax.data.sources.folder import Folder
from ipt_jax.data.sources.packed import Packed
from ipt_jax.data.sources.pairs import Pairs
from ipt_jax.data.sources.tfds import Tfds
from ipt_jax.errors import DataError
from ipt_jax.messages import nearest


@runtime_checkable
class Source(Protocol):
    """A fixed, ordered, picklable set of images."""

    def __len__(self) -> int:
        """Returns the number of images."""

    def __getitem__(self, i: int) -> bytes | np.ndarray | tuple[bytes, bytes]:
        """Returns image i: encoded bytes, pixels uint8 `[H, W, 3]`, or encoded (lq, hq).

        Raises:
          IndexError: i is beyond the end.
          DecodeError: the image is damaged for good, so another may replace it.
          DataError: the image cannot be read now, so no other may replace it.
        """

    def name(self, i: int) -> str:
        """Returns the name of image i for messages."""

    def fingerprint(self) -> str:
        """Returns a hexadecimal digest of content and order, independent of the location."""


def open_source(config_data: Mapping[str, Any], split: str = "train") -> Source:
    """Opens the source that a config's `data` section names.

    Args:
      config_data: `source` ("embedded", "folder", "pairs", "packed" or "tfds") and the keys which
        that source needs: `dir`, `name` (default "imagenet2012"), `split` (of the TFDS set; default
        "train"), `scale` (of pairs) and `held_out` (number of images kept for validation; default
        0).
      split: "train", "eval" (the held-out images) or "all".

    Raises:
      DataError: the source or the split is unknown, or the data is missing.
    """

    def get(key: str, default: Any) -> Any:
        value = config_data.get(key)
        return default if value is None or value == "" else value

    name = get("name", "imagenet2012")
    held_out = get("held_out", 0)
    openers: dict[str, Callable[[], Source]] = {
        "embedded": lambda: Embedded(split),
        "folder": lambda: Folder(get("dir", ""), split, held_out),
        "pairs": lambda: Pairs(get("dir", ""), split, held_out, get("scale", 0)),
        "packed": lambda: Packed(get("dir", ""), split, held_out),
        "tfds": lambda: Tfds(name, get("split", "train"), get("dir", None), split, held_out),
    }
    source = str(get("source", ""))
    if source not in openers:
        raise DataError(
            f"data.source: unknown source {source!r}{nearest(source, openers)}; known: "
            f"{', '.join(openers)}"
        )
    return openers[source]()
