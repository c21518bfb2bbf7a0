"""The image file formats: their names, their suffixes, and how to recognise them by content."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from pathlib import Path, PurePath

from PIL import features

from ipt_jax.messages import listed

# Whether this Pillow can read AVIF: its wheels can from 11.3 on.
AVIF = bool(features.check("avif")) if "avif" in features.modules else False

# Format -> how to spell it in messages.
TITLES = {
    "jpeg": "JPEG",
    "png": "PNG",
    "webp": "WebP",
    "bmp": "BMP",
    "tiff": "TIFF",
    "gif": "GIF",
    **({"avif": "AVIF"} if AVIF else {}),
}

# Suffix, in lower case -> format, for every format that can be both read and written.
SUFFIX_FORMATS = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".jfif": "jpeg",
    ".webp": "webp",
    ".bmp": "bmp",
    ".tif": "tiff",
    ".tiff": "tiff",
}

# The suffixes of the files that are read in folders, in lower case.
SUFFIXES = (*SUFFIX_FORMATS, *([".avif"] if AVIF else []))

# Suffixes of images that are not read, in lower case -> what to do about them.
_ADVICE = {
    "HEIC": ((".heic", ".heif", ".hif"), "convert it, e.g. with heif-convert of libheif"),
    "AVIF": ((".avif",), "install Pillow 11.3 or newer"),
    "a raw photograph": (
        (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"),
        "develop it to PNG or TIFF",
    ),
}

# Formats without lossy compression: the only ones whose pixels can serve as numbers.
LOSSLESS_SUFFIXES = tuple(
    suffix for suffix, name in SUFFIX_FORMATS.items() if name in ("png", "bmp", "tiff")
)

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Brands of files of ISO/IEC 14496-12 (bytes 8 to 11).
_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")

_TIFF_SIGNATURES = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")


def format_of(path: Path) -> str | None:
    """Returns the format that a file's suffix stands for, or None for an unknown suffix."""
    return SUFFIX_FORMATS.get(path.suffix.lower())


def sniff_format(start: bytes) -> str | None:
    """Returns the format of a file by its first 12 bytes (a key of `TITLES`), or None."""
    if start.startswith(b"\xff\xd8"):
        return "jpeg"
    if start.startswith(PNG_SIGNATURE):
        return "png"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "webp"
    if start[:2] == b"BM":
        return "bmp"
    if start[:4] in _TIFF_SIGNATURES:
        return "tiff"
    if start[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if AVIF and start[4:8] == b"ftyp" and start[8:12] in _AVIF_BRANDS:
        return "avif"
    return None


def unread_format(start: bytes) -> str:
    """Returns a format that is not read by a file's first 12 bytes, with advice; "" if unknown."""
    if start[4:8] != b"ftyp":
        return ""
    brand = start[8:12]
    title = "AVIF" if brand in _AVIF_BRANDS else "HEIC" if brand in _HEIC_BRANDS else ""
    return f"{title}, which is not read: {_ADVICE[title][1]}" if title else ""


def describe_left_out(names: Iterable[str]) -> str:
    """Returns which files of a folder are not read because of their suffix, for a message.

    Args:
      names: paths of these files.

    Returns:
      For example "3 files of other formats are left out: 2 .heic (a.heic, b.heic), 1 without
      suffix (c); .heic: convert it, ..."; "" for no files.
    """
    by_suffix: dict[str, list[str]] = collections.defaultdict(list)
    for name in sorted(names):
        by_suffix[PurePath(name).suffix.lower()].append(name)
    if not by_suffix:
        return ""
    total = sum(len(found) for found in by_suffix.values())
    parts = [
        f"{len(found)} {suffix or 'without suffix'} ({listed(found, 3)})"
        for suffix, found in sorted(by_suffix.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
    advice = [
        f"{title} is not read: {what}"
        for title, (suffixes, what) in _ADVICE.items()
        if any(suffix in by_suffix for suffix in suffixes)
    ]
    files = "1 file of another format is" if total == 1 else f"{total} files of other formats are"
    return "; ".join([f"{files} left out: {listed(parts, 8)}", *advice])
