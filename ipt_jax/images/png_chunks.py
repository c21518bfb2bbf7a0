"""The chunks of a PNG (W3C PNG, 3rd edition): what they hold beside the pixels.

Pillow and libpng refuse files whose text or colour profile is large when it is unpacked. Here these
chunks are taken out before a decoder sees the file, and text is kept packed.
"""

from __future__ import annotations

import binascii
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ipt_jax.images.files import open_image_file
from ipt_jax.images.formats import PNG_SIGNATURE
from ipt_jax.images.metadata import Metadata, iptc_of_resources
from ipt_jax.images.origin import KEY, Origin

# Chunks that decoders need: pixels, palette, transparency, animation.
DECODED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT")
COLOUR = (b"cICP", b"sRGB", b"gAMA", b"cHRM", b"mDCV", b"cLLI")
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
XMP_KEYWORD = b"XML:com.adobe.xmp"
IPTC_KEYWORD = b"Raw profile type iptc"
# Bytes that a packed profile or packet of XMP may have when it is unpacked.
LARGEST = 64 << 20
INCH = 0.0254


def pack_chunk(kind: bytes, body: bytes | bytearray | memoryview) -> bytes:
    """Returns a chunk with its length and checksum."""
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return b"".join((struct.pack(">I", len(body)), kind, body, struct.pack(">I", checksum)))


def walk(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yields (name, complete chunk) up to the end of a file that `decode.check_png` accepts."""
    view, at = memoryview(data), len(PNG_SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = bytes(view[at + 4 : at + 8]), at + 12 + length
        yield kind, view[at:end]
        if kind == b"IEND":
            return
        at = end


def bare(data: bytes) -> bytes:
    """Returns the PNG with only the chunks that decoders need."""
    return PNG_SIGNATURE + b"".join(chunk for kind, chunk in walk(data) if kind in DECODED)


def read_metadata(data: bytes) -> tuple[Metadata, list[str]]:
    """Returns the metadata of a PNG, and remarks for the user about what cannot be read."""
    found: dict[str, object] = {}
    texts: list[tuple[bytes, bytes]] = []
    colour: list[tuple[bytes, bytes]] = []
    notes: list[str] = []
    left_out: set[str] = set()
    for kind, chunk in walk(data):
        body = bytes(chunk[8:-4]) if kind not in DECODED else b""
        try:
            if kind in TEXTS:
                _read_text(kind, body, found, texts)
            elif kind in COLOUR:
                colour.append((kind, body))
            elif kind == b"iCCP":
                found["profile"] = unpack(body.split(b"\0", 1)[1][1:])
            elif kind == b"eXIf":
                found["exif"] = body
            elif kind == b"pHYs":
                x, y, unit = struct.unpack(">IIB", body)
                if x and y:
                    found["dpi" if unit else "aspect"] = (x * INCH, y * INCH) if unit else (x, y)
            elif kind not in DECODED:
                left_out.add(kind.decode("latin-1"))
        except (ValueError, IndexError, zlib.error, struct.error):
            notes.append(f"its {kind.decode('latin-1')} cannot be read and is left out")
    if left_out:
        # The specification lets a program that changes the pixels copy none of the common ones.
        # They hold the background, significant bits, a histogram, the time of the last change, ...
        names = ", ".join(sorted(left_out))
        notes.append(f"its {names} left out, since the result has other pixels")
    exif = found.get("exif") or found.pop("raw exif", b"")
    found["exif"] = bytes(exif).removeprefix(b"Exif\0\0")  # type: ignore[call-overload]
    found.pop("raw exif", None)
    return Metadata(texts=tuple(texts), colour=tuple(colour), **found), notes  # type: ignore[arg-type]


def _read_text(
    kind: bytes, body: bytes, found: dict[str, object], texts: list[tuple[bytes, bytes]]
) -> None:
    """Sorts a text chunk into XMP, IPTC, EXIF, the record of a result, or plain text."""
    keyword = body.split(b"\0", 1)[0]
    if keyword == XMP_KEYWORD and kind == b"iTXt":
        found["xmp"] = text_of(kind, body)
    elif keyword == IPTC_KEYWORD:
        raw = _raw_profile(text_of(kind, body))
        found["iptc"] = iptc_of_resources(raw) if raw.startswith(b"8BIM") else raw
    elif keyword in (b"Raw profile type exif", b"Raw profile type APP1"):
        raw = _raw_profile(text_of(kind, body))
        if raw.startswith(b"Exif\0\0"):
            found["raw exif"] = raw
    elif keyword == KEY.encode():
        found["origin"] = Origin.parse(text_of(kind, body).decode("latin-1"))
    else:
        texts.append((kind, body))


def text_of(kind: bytes, body: bytes) -> bytes:
    """Returns the unpacked text of a text chunk: Latin-1, or UTF-8 of an iTXt.

    Raises:
      ValueError, IndexError, zlib.error: the chunk is damaged or unpacks to more than `LARGEST`.
    """
    rest = body.split(b"\0", 1)[1]
    if kind == b"tEXt":
        return rest
    if kind == b"zTXt":
        return unpack(rest[1:])
    packed = rest[0]
    text = rest[2:].split(b"\0", 2)[2]
    return unpack(text) if packed else text


def unpack(data: bytes) -> bytes:
    """Returns unpacked data; raises ValueError if it is larger than `LARGEST` or truncated."""
    unpacker = zlib.decompressobj()
    out = unpacker.decompress(data, LARGEST)
    if not unpacker.eof:
        raise ValueError("the packed data is too large or truncated")
    return out


def _raw_profile(text: bytes) -> bytes:
    """Returns the bytes of a profile as ImageMagick stores it: name, length, hexadecimal."""
    _, _, digits = text.strip().split(None, 2)
    return binascii.unhexlify(b"".join(digits.split()))


def pack_metadata(metadata: Metadata, exif: bytes, origin: Origin | None) -> bytes:
    """Returns the chunks that a PNG has in front of its pixels."""
    chunks = []
    for kind, body in metadata.colour:
        # A file has a profile or this chunk, not both.
        if kind != b"sRGB" or not metadata.profile:
            chunks.append((kind, body))
    if metadata.profile:
        chunks.insert(0, (b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.profile)))
    if metadata.dpi:
        x, y = (round(value / INCH) for value in metadata.dpi)
        chunks.append((b"pHYs", struct.pack(">IIB", x, y, 1)))
    elif metadata.aspect:
        chunks.append((b"pHYs", struct.pack(">IIB", *metadata.aspect, 0)))
    if exif:
        chunks.append((b"eXIf", exif))
    if origin:
        chunks.append((b"tEXt", f"{KEY}\0{origin.text()}".encode("ascii")))
    if metadata.xmp:
        chunks.append((b"iTXt", XMP_KEYWORD + b"\0\0\0\0\0" + metadata.xmp))
    if metadata.iptc:
        raw = b"\niptc\n%8d\n%s\n" % (len(metadata.iptc), metadata.iptc.hex().encode())
        chunks.append((b"zTXt", IPTC_KEYWORD + b"\0\0" + zlib.compress(raw)))
    chunks += metadata.texts
    return b"".join(pack_chunk(kind, body) for kind, body in chunks)


def read_origin(file: BinaryIO) -> Origin | None:
    """Returns the record in front of the pixels of a PNG that is open at its start, or None."""
    file.read(len(PNG_SIGNATURE))
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind in (b"IDAT", b"IEND"):
            return None
        if kind == b"tEXt" and length < 100_000:
            keyword, _, text = file.read(length).partition(b"\0")
            if keyword == KEY.encode():
                return Origin.parse(text.decode("latin-1"))
            file.seek(4, 1)
        else:
            file.seek(length + 4, 1)
    return None


def comment_chunk(text: bytes) -> tuple[bytes, bytes]:
    """Returns a text chunk with the comment of a JPEG or GIF."""
    clean = text.rstrip(b"\0").decode("utf-8", "replace").replace("\0", " ").encode()
    return b"iTXt", b"Comment\0\0\0\0\0" + clean


def keywords(texts: tuple[tuple[bytes, bytes], ...]) -> list[str]:
    """Returns the names of texts."""
    return [body.split(b"\0", 1)[0].decode("latin-1") for _, body in texts]


def measure_png(path: Path) -> tuple[int, int]:
    """Returns (height, width) from the header of a PNG file."""
    with open_image_file(path) as file:
        width, height = struct.unpack(">II", file.read(24)[16:])
    return height, width
