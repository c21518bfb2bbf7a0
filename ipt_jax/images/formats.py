"""The image file formats: their names, their suffixes, and how to recognise them by content."""

from __future__ import annotations

from pathlib import Path

# Format -> how to spell it in messages.
TITLES = {
    "jpeg": "JPEG",
    "png": "PNG",
    "webp": "WebP",
    "bmp": "BMP",
    "tiff": "TIFF",
    "gif": "GIF",
}

# Suffix, in lower case -> format, for every format that can be both read and written.
SUFFIX_FORMATS = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
    ".bmp": "bmp",
    ".tif": "tiff",
    ".tiff": "tiff",
}

SUFFIXES = tuple(SUFFIX_FORMATS)

# Formats without lossy compression: the only ones whose pixels can serve as numbers.
LOSSLESS_SUFFIXES = tuple(
    suffix for suffix, name in SUFFIX_FORMATS.items() if name in ("png", "bmp", "tiff")
)

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

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
    return None
