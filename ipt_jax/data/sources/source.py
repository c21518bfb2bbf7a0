"""The interface of a source of images, and `open_source`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ipt_jax.data.sources.embedded import Embedded
from ipt_jax.data.sources.folder import Folder
from ipt_jax.data.sources.packed import Packed
from ipt_jax.data.sources.pairs import Pairs
from ipt_jax.data.sources.tfds import Tfds
from ipt_jax.errors import DataError


@runtime_checkable
class Source(Protocol):
    """A fixed, ordered set of pictures."""

    def __len__(self) -> int:
        """Number of pictures."""

    def __getitem__(self, i: int) -> bytes | np.ndarray | tuple[bytes, bytes]:
        """Picture i: encoded bytes for `decode`, or uint8 [H, W, 3], or (lq, hq) bytes. IndexError
        beyond the end.
        """

    def name(self, i: int) -> str:
        """What to call picture i in a message."""

    def fingerprint(self) -> str:
        """Hexadecimal digest of the content and its order; independent of where it is stored."""


def open_source(config_data: Mapping[str, Any], split: str = "train") -> Source:
    """Opens the source that a config's `data` section asks for.

    Args:
      config_data: `source` ("embedded", "folder", "pairs", "packed" or "tfds") and what that source
        needs of `dir`, `name` (default "imagenet2012"), `split` (of the TFDS set; default "train")
        and `held_out` (number of pictures kept for evaluation; default 0).
      split: "train", "eval" (the held-out pictures) or "all".

    Raises:
      DataError: unknown source or split, or data that is not there.
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
        near = difflib.get_close_matches(source, openers, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(
            f"data.source: unknown source {source!r}{hint} (known: {', '.join(openers)})"
        )
    return openers[source]()
