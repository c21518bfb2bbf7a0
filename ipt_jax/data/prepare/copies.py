"""Looks for images of one data set in another: is a photograph for training in a benchmark?

Each image gets a perceptual hash: the signs of the low frequencies (DCT) of a small grey copy. A
rescaled or recompressed copy has nearly the same hash, and the hash of a flipped or turned copy is
compared as well. A crop, a collage or a strong edit has another hash and is not found.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np

from ipt_jax.errors import DataError, DecodeError
from ipt_jax.images.decode import decode
from ipt_jax.images.sheet import Page
from ipt_jax.messages import printable

# Side in pixels of the grey copy, and of the square of low frequencies that become bits.
GREY, LOW = 64, 16
BITS = LOW * LOW - 1
# Pairs with at most so many different bits are copies. docs/data.md has measured distances.
COPY = 50
# Side in pixels of an image on the sheet of pairs.
SHOWN = 192


class Pair(NamedTuple):
    """An image for training and the most similar one of the benchmarks."""

    distance: int
    training: int
    benchmark: int


def perceptual_hash(image: np.ndarray) -> np.ndarray:
    """Returns the hash of an image uint8 `[H, W, 3]`: bool `[BITS]`."""
    return _bits(_grey(image))


def hashes_of_turned(image: np.ndarray) -> np.ndarray:
    """Returns the hashes of the eight flips and turns of an image: bool `[8, BITS]`."""
    grey = _grey(image)
    turned = [np.rot90(grey, k) for k in range(4)]
    return np.stack([_bits(one[:, ::flip]) for one in turned for flip in (1, -1)])


def _grey(image: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY).astype(np.float32)
    return cv2.resize(grey, (GREY, GREY), interpolation=cv2.INTER_AREA)


def _bits(grey: np.ndarray) -> np.ndarray:
    # The first coefficient is the brightness.
    low = cv2.dct(np.ascontiguousarray(grey))[:LOW, :LOW].reshape(-1)[1:]
    return low > np.median(low)


def find_copies(training: Any, benchmarks: Any, threads: int = 0) -> list[Pair]:
    """Returns for each image of `training` the most similar image of `benchmarks`, closest first.

    Images that cannot be read are left out; `ipt data check` names them.

    Args:
      training, benchmarks: sources.
      threads: number of threads; 0 for one per core.

    Raises:
      DataError: no image of the benchmarks can be read.
    """
    cv2.setNumThreads(1)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        hashes = list(
            pool.map(lambda i: _hash(benchmarks, i, perceptual_hash), range(len(benchmarks)))
        )
        theirs = {i: found for i, found in enumerate(hashes) if found is not None}
        if not theirs:
            raise DataError("no image of the benchmarks can be read")
        places = list(theirs)
        # +1 and -1, so that a product counts equal bits.
        signs = np.stack(list(theirs.values())).astype(np.float32) * 2 - 1

        def closest(i: int) -> Pair | None:
            own = _hash(training, i, hashes_of_turned)
            if own is None:
                return None
            distances = ((BITS - (own.astype(np.float32) * 2 - 1) @ signs.T) / 2).min(0)
            best = int(distances.argmin())
            return Pair(round(float(distances[best])), i, places[best])

        return sorted(found for found in pool.map(closest, range(len(training))) if found)


def _hash(source: Any, i: int, function: Any) -> np.ndarray | None:
    image = read(source, i)
    return None if image is None else function(image)


def read(source: Any, i: int) -> np.ndarray | None:
    """Returns image `i` of a source, uint8 `[H, W, 3]`; None if it cannot be read."""
    try:
        raw = source[i]
        return decode(raw) if isinstance(raw, bytes) else raw
    except DecodeError:
        return None


def copies_report(
    training: Any, benchmarks: Any, pairs: list[Pair], shown: int = 10
) -> dict[str, Any]:
    """Returns what was found, as JSON has it.

    `compared` (numbers of images), `bits`, `copy_up_to` (the largest distance of a copy), `copies`,
    and `closest`, the `shown` most similar pairs that are no copies.
    """
    named = [
        {
            "distance": pair.distance,
            "training": training.name(pair.training),
            "benchmark": benchmarks.name(pair.benchmark),
        }
        for pair in pairs
    ]
    copies = [one for one in named if one["distance"] <= COPY]
    return {
        "compared": {"training": len(pairs), "benchmarks": len(benchmarks)},
        "bits": BITS,
        "copy_up_to": COPY,
        "copies": copies,
        "closest": named[len(copies) : len(copies) + shown],
    }


def copies_lines(found: dict[str, Any]) -> Iterator[str]:
    """Yields the lines of a report for the user."""
    counts = found["compared"]
    yield (
        f"{counts['training']} images compared with {counts['benchmarks']} of the benchmarks: "
        f"{len(found['copies'])} copies (at most {found['copy_up_to']} of {found['bits']} bits "
        "differ)"
    )
    for title, pairs in (("copy", found["copies"]), ("no copy", found["closest"])):
        for pair in pairs:
            yield (
                f"  {title}, distance {pair['distance']}: {printable(pair['training'])} | "
                f"{printable(pair['benchmark'])}"
            )


def copies_sheet(training: Any, benchmarks: Any, pairs: list[Pair], shown: int = 10) -> np.ndarray:
    """Draws the most similar pairs side by side, uint8 RGB `[H, W, 3]`."""
    gap, text = 6, 20
    pairs = pairs[:shown]
    page = Page(len(pairs) * (SHOWN + text + gap) + gap, 2 * (SHOWN + gap) + gap)
    for row, pair in enumerate(pairs):
        top = gap + row * (SHOWN + text + gap)
        page.write_label(f"distance {pair.distance} of {BITS}", top + 3, gap)
        for column, (source, i) in enumerate(
            ((training, pair.training), (benchmarks, pair.benchmark))
        ):
            image = read(source, i)
            assert image is not None
            small = cv2.resize(image, (SHOWN, SHOWN), interpolation=cv2.INTER_AREA)
            page.place_image(small, top + text, gap + column * (SHOWN + gap))
    return page.pixels()
