"""`ipt data check`: reads a whole set and says what is in it."""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ipt_jax.data.sources.packed import DESCRIPTION
from ipt_jax.errors import DataError

# Side of the largest crop: four times the paper's tile of 48
CROP = 192
_MAGIC = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    b"RIFF": "WebP",
    b"BM": "BMP",
    b"II": "TIFF",
    b"MM": "TIFF",
}


def add_parser(commands: Any) -> None:
    """`ipt data check`."""
    command = commands.add_parser(
        "check",
        allow_abbrev=False,
        help="read a whole set: what is in it, and what of it cannot be read",
        description="Reads and decodes every picture of a set; exit code 1 if any cannot be read.",
    )
    command.add_argument(
        "set", metavar="SET", help="a folder of pictures, a packed set, or the name of a TFDS set"
    )
    command.add_argument("--data-dir", metavar="DIR", help="where the TFDS set is; local or gs://")
    command.add_argument("--split", metavar="NAME", help="of a TFDS set (default: train)")
    command.add_argument(
        "--crop",
        type=int,
        default=CROP,
        metavar="PIXELS",
        help=f"count pictures with a side shorter than this (default: {CROP}, the x4 task's)",
    )
    command.add_argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="that read and decode (default: all cores)",
    )
    command.add_argument("--json", metavar="FILE", help="also write the report there")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs `ipt data check`."""
    source = find(options.set, options.data_dir, options.split)
    found = check(source, options.crop, options.threads)
    print("\n".join(lines(options.set, found)))
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
    return 1 if found["unreadable"] else 0


def find(name: str, data_dir: str | None, split: str | None = None) -> Any:
    """The source that a word of the user's means: what lies in a folder of that name, else a TFDS
    set.

    Raises:
      DataError: there is neither.
    """
    from ipt_jax.data.sources.folder import Folder
    from ipt_jax.data.sources.packed import Packed
    from ipt_jax.data.sources.tfds import Tfds

    path = pathlib.Path(name).expanduser()
    if data_dir is None and path.is_dir():
        if split is not None:
            raise DataError(f"{name} is a folder, which has no splits: leave --split {split} out")
        if (path / DESCRIPTION).exists():
            return Packed(path)
        if (path / "dataset_info.json").exists():
            raise DataError(
                f"{name} is a TFDS set; name it and say where it is: ipt data check "
                f"{path.absolute().parent.name} --data-dir {path.absolute().parent.parent}"
            )
        return Folder(path)
    if data_dir is None and (os.sep in name or path.exists()):
        raise DataError(
            f"{name} is not a folder; name a folder of pictures, a packed set, or a TFDS set with "
            "--data-dir"
        )
    return Tfds(name, split or "train", data_dir)


def check(source: Any, crop: int = CROP, threads: int = 0) -> dict[str, Any]:
    """Reads and decodes all of a source.

    Args:
      source: a `Source`.
      crop: side in pixels; shorter pictures are counted.
      threads: 0 = as many as there are cores.

    Returns:
      What can be written as JSON: `pictures`, `bytes`, `formats` (name -> count), `sides`
        (smallest, median and largest of
      the shorter and of the longer side), `smaller_than_crop`, `crop`, `unreadable` (name ->
      reason).
    """
    from tqdm import tqdm

    formats: collections.Counter[str] = collections.Counter()
    shorter, longer, total, unreadable = [], [], 0, {}
    for i, (kind, size, shape, fault) in enumerate(
        tqdm(
            _all(source, threads or os.cpu_count() or 1),
            "checking",
            len(source),
            unit=" pictures",
            file=sys.stderr,
        )
    ):
        total += size
        if fault:
            unreadable[source.name(i)] = fault
        else:
            formats[kind] += 1
            shorter.append(min(shape))
            longer.append(max(shape))
    return {
        "pictures": len(source),
        "bytes": total,
        "formats": dict(formats.most_common()),
        "sides": {"shorter": _spread(shorter), "longer": _spread(longer)},
        "crop": crop,
        "smaller_than_crop": sum(side < crop for side in shorter),
        "unreadable": unreadable,
    }


def _all(source: Any, threads: int) -> Iterator[tuple[str, int, tuple[int, int], str]]:
    """(format, bytes, (height, width), fault) of every picture, in order."""
    import cv2

    from ipt_jax.data.sources.packed import Packed, crc32
    from ipt_jax.errors import DecodeError
    from ipt_jax.images.decode import decode

    def one(i: int) -> tuple[str, int, tuple[int, int], str]:
        raw = b""
        try:
            raw = source[i]
            if not isinstance(raw, bytes):
                return "array", raw.nbytes, raw.shape[:2], ""
            if isinstance(source, Packed) and crc32(raw) != source.checksum(i):
                return "", len(raw), (0, 0), "not what was packed: wrong checksum"
            shape = decode(raw).shape
        except DecodeError as error:
            return "", len(raw), (0, 0), str(error)
        kind = next((name for magic, name in _MAGIC.items() if raw.startswith(magic)), "other")
        return kind, len(raw), (shape[0], shape[1]), ""

    cv2.setNumThreads(1)
    with ThreadPoolExecutor(threads) as pool:
        # map() alone would hold all that it has read
        for start in range(0, len(source), 64 * threads):
            yield from pool.map(one, range(start, min(len(source), start + 64 * threads)))


def _spread(sides: list[int]) -> list[int]:
    ordered = sorted(sides)
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]] if ordered else []


def lines(name: str, found: dict[str, Any], limit: int = 50) -> Iterator[str]:
    """The report for the user."""
    yield f"{name}: {found['pictures']} pictures, {found['bytes'] / 1e6:.1f} MB"
    yield "formats: " + (
        ", ".join(f"{kind} {count}" for kind, count in found["formats"].items()) or "none"
    )
    for which, spread in found["sides"].items():
        if spread:
            yield f"{which} side: {spread[0]} to {spread[2]} pixels, median {spread[1]}"
    if found["smaller_than_crop"]:
        yield f"{found['smaller_than_crop']} smaller than the largest crop ({found['crop']} pixels): they will be enlarged"
    if found["unreadable"]:
        yield f"{len(found['unreadable'])} cannot be read:"
        for i, (picture, fault) in enumerate(found["unreadable"].items()):
            if i == limit:
                yield f"  and {len(found['unreadable']) - limit} more (--json FILE lists all)"
                break
            yield f"  {picture}: {fault}"
    else:
        yield "all can be read"
