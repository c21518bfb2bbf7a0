"""Looks into data: finds the data set that a user names, reads all of it, and draws batches."""

from __future__ import annotations

import collections
import os
import pathlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from ipt_jax import messages
from ipt_jax.data.crops import why_too_narrow
from ipt_jax.data.layouts import check_sizes, understand_pairs
from ipt_jax.data.sources.folder import Folder
from ipt_jax.data.sources.packed import DESCRIPTION, Packed, crc32
from ipt_jax.data.sources.tfds import Tfds
from ipt_jax.errors import DataError, DecodeError
from ipt_jax.images.decode import decode, decode_warning
from ipt_jax.images.formats import TITLES, sniff_format
from ipt_jax.images.sheet import Page
from ipt_jax.messages import printable
from ipt_jax.storage import expanded, is_remote, reachable


def find_source(
    name: str, data_dir: str | None, split: str | None = None
) -> Folder | Packed | Tfds:
    """Returns the source that a user names: a folder of images, a packed set, or a TFDS set.

    Args:
      name: path of a folder (of a packed set also on gs://), or name of a TFDS set.
      data_dir: folder that holds the TFDS set, local or gs://; None for a folder or a packed set,
        or for TFDS's default folder.
      split: of a TFDS set (default: train).

    Raises:
      DataError: neither is there, or `split` is given for a folder.
    """
    if data_dir is None and is_remote(name):
        return _remote_source(name, split)
    path = pathlib.Path(name).expanduser()
    if data_dir is None and path.is_dir():
        if split is not None:
            raise DataError(f"{name} is a folder, which has no splits: leave --split {split} out")
        if (path / DESCRIPTION).exists():
            return Packed(path)
        if (path / "dataset_info.json").exists():
            raise DataError(
                f"{name} is a TFDS set; give its name and its folder: ipt data check "
                f"{path.absolute().parent.name} --data-dir {path.absolute().parent.parent}"
            )
        return Folder(path)
    if data_dir is None and (os.sep in name or path.exists()):
        raise DataError(
            f"{name} is not a folder; name a folder of images, a packed set, or a TFDS set with "
            "--data-dir"
        )
    return Tfds(name, split or "train", data_dir)


def _remote_source(name: str, split: str | None) -> Packed:
    """Returns the packed set in a folder of a bucket. Raises DataError for anything else there."""
    path = expanded(name)
    reachable(path, "data set")
    if (path / DESCRIPTION).exists():
        if split is not None:
            raise DataError(f"{name} is a packed set, which has no splits: leave --split out")
        return Packed(name)
    if (path / "dataset_info.json").exists():
        folders = name.rstrip("/").split("/")
        raise DataError(
            f"{name} is a TFDS set; give its name and its folder: ipt data check {folders[-2]} "
            f"--data-dir {'/'.join(folders[:-2])}"
        )
    raise DataError(
        f"{name} holds neither a packed set nor a TFDS set; a folder of image files must be local: "
        "copy it, or pack it with ipt data prepare folder and copy the result"
    )


def check_source(
    source: Any, crop: int = 0, threads: int = 0, pairs: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Reads and decodes all images of a source.

    Args:
      source: a `Source`.
      crop: side in pixels; images with a shorter side are counted.
      threads: number of threads; 0 for one per core.
      pairs: the report of `check_pairs`. Training on pairs mirrors images that are smaller than a
        crop instead of enlarging them, so none is too narrow.

    Returns:
      A report that can be written as JSON: `pictures` (their number), `bytes`, `formats` (name ->
      count), `sides` (smallest, median and largest of the shorter and of the longer sides),
      `crop`, `smaller_than_crop`, `unreadable` (name -> reason; also images that are too narrow for
      a crop, as in training), `damaged` (name -> what the decoder warns of; training reads these
      images), `other_formats` (the files of a folder that are not read, in words), and `pairs`.
    """
    formats: collections.Counter[str] = collections.Counter()
    shorter: list[int] = []
    longer: list[int] = []
    unreadable: dict[str, str] = {}
    damaged: dict[str, str] = {}
    total = 0
    findings = tqdm(
        _inspect_all(source, 0 if pairs else crop, threads or os.cpu_count() or 1),
        "checking",
        len(source),
        unit=" images",
        file=messages.stderr(),
    )
    for i, found in enumerate(findings):
        total += found.bytes
        if found.warning:
            damaged[source.name(i)] = found.warning
        if found.fault:
            unreadable[source.name(i)] = found.fault
        else:
            formats[found.format] += 1
            shorter.append(min(found.height, found.width))
            longer.append(max(found.height, found.width))
    return {
        "pictures": len(source),
        "bytes": total,
        "formats": dict(formats.most_common()),
        "sides": {"shorter": _spread(shorter), "longer": _spread(longer)},
        "crop": crop,
        "smaller_than_crop": sum(side < crop for side in shorter),
        "unreadable": unreadable,
        "damaged": damaged,
        "other_formats": getattr(source, "left_out", ""),
        "pairs": pairs or {},
    }


def check_pairs(name: str, data_dir: str | None = None) -> dict[str, Any]:
    """Checks the pairs of a folder: whether each image has a partner, and the sizes of partners.

    Args:
      name: path of the folder.
      data_dir: folder of a TFDS set; such sets have no pairs.

    Returns:
      A report that can be written as JSON: `layout` in words, `pairs` (scale -> their number) and
      `fault` ("" if all is well). It is empty if the folder holds no pairs in a known layout.
    """
    folder = pathlib.Path(name).expanduser()
    if data_dir is not None or not folder.is_dir():
        return {}
    try:
        found = understand_pairs(folder)
        if found is None or not found.lq:
            return {}
        for scale, lq in found.lq.items():
            check_sizes(lq, found.clean(scale), scale)
    except DataError as error:
        return {"layout": "", "pairs": {}, "fault": str(error)}
    counts = {f"x{scale}": len(lq) for scale, lq in found.lq.items()}
    return {"layout": found.words, "pairs": counts, "fault": ""}


class _Finding(NamedTuple):
    """What was found about one image; `fault` is "" if it can be read.

    `warning` is what the decoder warns of in an image that it decodes.
    """

    format: str
    bytes: int
    height: int
    width: int
    fault: str
    warning: str = ""


def _inspect_all(source: Any, crop: int, threads: int) -> Iterator[_Finding]:
    """Yields what is found about each image of a source, in order."""
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(threads) as pool:
        # In parts: a single map() would hold the results of all images that are read.
        for start in range(0, len(source), 64 * threads):
            part = range(start, min(len(source), start + 64 * threads))
            yield from pool.map(lambda i: _inspect(source, i, crop), part)


def _inspect(source: Any, i: int, crop: int) -> _Finding:
    raw = b""
    try:
        raw = source[i]
        if not isinstance(raw, bytes):
            fault = why_too_narrow(raw.shape[0], raw.shape[1], crop)
            return _Finding("array", raw.nbytes, raw.shape[0], raw.shape[1], fault)
        if isinstance(source, Packed) and crc32(raw) != source.checksum(i):
            return _Finding("", len(raw), 0, 0, "not what was packed: wrong checksum")
        height, width, _ = decode(raw).shape
    except DecodeError as error:
        return _Finding("", len(raw), 0, 0, str(error))
    kind = TITLES[str(sniff_format(raw[:12]))]
    narrow = why_too_narrow(height, width, crop)
    return _Finding(kind, len(raw), height, width, narrow, decode_warning(raw))


def _spread(sides: list[int]) -> list[int]:
    """Returns smallest, median and largest, or nothing of nothing."""
    ordered = sorted(sides)
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]] if ordered else []


def report_lines(name: str, found: dict[str, Any], limit: int = 50) -> Iterator[str]:
    """Yields the lines of a report of `check_source` for the user.

    Args:
      name: of the source.
      found: the report.
      limit: of unreadable images that are named.
    """
    yield f"{name}: {found['pictures']} images, {found['bytes'] / 1e6:.1f} MB"
    yield "formats: " + (
        ", ".join(f"{kind} {count}" for kind, count in found["formats"].items()) or "none"
    )
    for which, spread in found["sides"].items():
        if spread:
            yield f"{which} side: {spread[0]} to {spread[2]} pixels, median {spread[1]}"
    if found["smaller_than_crop"]:
        yield (
            f"{found['smaller_than_crop']} are smaller than the largest crop ({found['crop']} "
            f"pixels) and will be {'mirrored' if found['pairs'] else 'enlarged'}"
        )
    if found["other_formats"]:
        yield found["other_formats"]
    pairs = found["pairs"]
    if pairs and pairs["fault"]:
        yield f"the pairs do not match: {pairs['fault']}"
    elif pairs:
        yield f"{pairs['layout']}: " + ", ".join(
            f"{count} pairs at {scale}" for scale, count in pairs["pairs"].items()
        )
    if found["damaged"]:
        yield f"{len(found['damaged'])} are damaged, and training would read them:"
        yield from _named(found["damaged"], limit)
    if not found["unreadable"]:
        yield "all can be read"
        return
    yield f"{len(found['unreadable'])} cannot be read:"
    yield from _named(found["unreadable"], limit)


def _named(faults: dict[str, str], limit: int) -> Iterator[str]:
    """Yields a line for each of the first `limit` images: its name and its fault."""
    for i, (name, fault) in enumerate(faults.items()):
        if i == limit:
            yield f"  and {len(faults) - limit} more (--json FILE lists all)"
            break
        yield f"  {printable(name)}: {fault}"


def batch_sheet(batch: dict[str, dict[str, np.ndarray]], pairs: int) -> np.ndarray:
    """Draws a batch with one row per task; each pair shows lq beside hq.

    Smaller images are enlarged to the side of the largest hq without interpolation, so that their
    pixels become squares.

    Args:
      batch: `{task: {"lq", "hq"}}`.
      pairs: show at most this many pairs of each task.

    Returns:
      uint8 RGB `[H, W, 3]`.
    """
    side = max(pair["hq"].shape[1] for pair in batch.values())
    columns = min(pairs, max(len(pair["hq"]) for pair in batch.values()))
    # Pixels: between rows and pairs, between the two images of a pair, and of a row's label.
    gap, inner, text = 6, 2, 20
    across, down = 2 * side + inner + 2 * gap, side + text + gap
    page = Page(len(batch) * down + gap, columns * across + gap)
    for row, (name, pair) in enumerate(batch.items()):
        top = gap + row * down
        page.write_label(f"{name}: degraded | clean", top + 3, gap)
        for column, images in enumerate(
            zip(pair["lq"][:columns], pair["hq"][:columns], strict=True)
        ):
            for place, image in enumerate(images):
                pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
                squares = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_NEAREST)
                left = gap + column * across + place * (side + inner)
                page.place_image(squares, top + text, left)
    return page.pixels()
