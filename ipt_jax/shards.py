"""Shards: how the files of one job are divided among machines that do not talk to each other."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import unicodedata
from collections.abc import Hashable, Iterable, Sequence
from pathlib import PurePath

from ipt_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of the parts into which work is divided.

    Attributes:
      number: the number of the part, in 1..count.
      count: the number of parts.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Returns the shard of `I/N`.

        I counts from 1 to N or from 0 to N - 1: 0 and N are the same shard, so the indices of Slurm
        arrays of either kind, of Kubernetes (from 0) and of GNU parallel (from 1) fit as they are.

        Raises:
          UsageError: the text has another form, or I is not in 0..N.
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip(), re.ASCII)
        if found is None:
            raise UsageError(
                f"--shard {text}: write I/N, such as 3/8 for the third of eight parts (is a "
                "variable of the job empty?)"
            )
        number, count = map(int, found.groups())
        if count < 1 or number > count:
            raise UsageError(
                f"--shard {text}: of N parts, I is one of 1..N, or of 0..N-1 (0 and N are the same "
                "part); let the job's array begin at 0 or 1"
            )
        return cls(number or count, count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def label(self) -> str:
        """The shard in names of files: "3-of-8"."""
        return f"{self.number}-of-{self.count}"

    def has_path(self, path: PurePath) -> bool:
        """Returns whether a relative path belongs to this shard.

        The path's text alone decides: the SHA-256 of its parts with "/" between them. Composed and
        decomposed characters, between which macOS and Linux may differ, count as equal.
        """
        text = unicodedata.normalize("NFC", "/".join(path.parts))
        digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number % self.count


def mask(shard: Shard, paths: Sequence[PurePath], groups: Iterable[Hashable]) -> list[bool]:
    """Returns for each path whether it belongs to the shard.

    Args:
      shard: the shard.
      paths: relative paths, in any order.
      groups: for each path a key; paths with the same key go to the same shard, that of the first
        of them in alphabetical order.
    """
    keys = list(groups)
    first: dict[Hashable, PurePath] = {}
    for key, path in zip(keys, paths, strict=True):
        first[key] = min(first.get(key, path), path, key=str)
    return [shard.has_path(first[key]) for key in keys]
