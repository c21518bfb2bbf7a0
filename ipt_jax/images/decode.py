"""Decodes image files to RGB arrays for training, and refuses damaged files.

OpenCV decodes JPEG and PNG, the formats of training sets. Their structure is checked first: for a
truncated or corrupt file OpenCV may return half an image and report the damage only on stderr.
Pillow decodes WebP, BMP, TIFF and AVIF. The first bytes decide on the format, never the name.
`docs/decisions/0009-image-decoding.md` compares this with Pillow alone.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import BmpImagePlugin, JpegImagePlugin, TiffImagePlugin, WebPImagePlugin

from ipt_jax.errors import DecodeError
from ipt_jax.images import png_chunks
from ipt_jax.images.formats import AVIF, PNG_SIGNATURE, sniff_format, unread_format
from ipt_jax.images.metadata import ORIENTATION
from ipt_jax.messages import first_line

MAX_PIXELS = 500_000_000

# The plugins' classes instead of Image.open, which would try every format that Pillow knows, and
# has a limit on the number of pixels that holds for the entire process.
_PLUGINS: dict[str, type] = {
    "webp": WebPImagePlugin.WebPImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
}
if AVIF:
    from PIL import AvifImagePlugin

    _PLUGINS["avif"] = AvifImagePlugin.AvifImageFile

_CV2_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION

# A block of 8x8 pixels takes one bit at least, for its mean.
_PIXELS_PER_BYTE = 512

# Data that differ from the zero bits with which libjpeg continues an image that ends early: first
# without restart markers, then behind each of them.
_FILLER = b"".join(
    (b"" if marker is None else bytes((0xFF, marker))) + bytes(range(1, 255))
    for marker in (None, *range(0xD0, 0xD8))
)

_MARKER = re.compile(rb"\xff+[^\x00\xff]", re.DOTALL)

_PNG_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")

# Pillow warns about a damaged TIFF before it raises, and about metadata that is not read here.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")


class Header(NamedTuple):
    """The header of a JPEG or PNG, read before any pixel is decoded.

    Attributes:
      height, width: as stored, before the orientation is undone.
      channels: of a JPEG; 0 for a PNG.
      orientation: EXIF orientation, 1..8.
      scan: of a JPEG, the offset at which the entropy-coded data of its first scan starts.
      scan_marker: of a JPEG, the offset of the marker of its first scan.
      progressive: whether it is a progressive JPEG.
      described: of a PNG, whether it has text or a colour profile.
    """

    height: int
    width: int
    channels: int = 0
    orientation: int = 1
    scan: int = 0
    scan_marker: int = 0
    progressive: bool = False
    described: bool = False


def decode(
    data: bytes, max_pixels: int = MAX_PIXELS, warn: Callable[[str], object] = lambda text: None
) -> np.ndarray:
    """Decodes a JPEG, PNG, WebP, BMP or TIFF, or an AVIF where Pillow can.

    Grey and palette images become RGB. The EXIF orientation is applied. CMYK is converted by
    Pillow's formula. 16 bits become 8 by rounding v / 257. Alpha is dropped and the stored colour
    kept, because any background to blend with would be an invention. The first of several frames
    or pages is taken. Colour profiles are ignored.

    Args:
      data: the encoded image.
      max_pixels: an image whose header announces more pixels is refused before memory is
        allocated for it.
      warn: is called with what libjpeg warns of in an image that is decoded nevertheless; see
        `decode_warning`.

    Returns:
      uint8 `[H, W, 3]`, RGB.

    Raises:
      DecodeError: the data is not in one of these formats, is truncated, corrupt or too large, or
        its pixels do not fit into 8-bit RGB (floating point, 32-bit integers).
    """
    data = bytes(data)
    kind = sniff_format(data[:12])
    try:
        if kind == "jpeg":
            image = _decode_jpeg(data, max_pixels, warn)
        elif kind == "png":
            image = _decode_png(data, max_pixels)
        elif kind is not None and kind in _PLUGINS:
            image = _decode_by_pillow(kind, data, max_pixels)
        elif not data:
            raise DecodeError("the image is empty: 0 bytes")
        else:
            raise DecodeError(
                unread_format(data[:12])
                or f"not a JPEG, PNG, WebP, BMP or TIFF: {len(data)} bytes, starting with "
                f"{data[:8]!r}"
            )
    except (DecodeError, MemoryError):
        raise
    # Decoders raise exceptions of nearly any type for crafted input.
    except Exception as error:
        raise DecodeError(f"cannot decode the image: {first_line(error)}") from error
    return np.ascontiguousarray(image)


def _decode_jpeg(data: bytes, max_pixels: int, warn: Callable[[str], object]) -> np.ndarray:
    header = check_jpeg(data, max_pixels)
    if header.channels == 4:
        with JpegImagePlugin.JpegImageFile(io.BytesIO(data)) as picture:
            check_jpeg_pixels(data, np.asarray(picture))
            image = np.asarray(picture.convert("RGB"))
        if warning := decode_warning(data):
            warn(warning)
        return orient(image, header.orientation)
    try:
        # Its pixels and its speed are those of OpenCV, and it does not keep warnings to itself.
        image = simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except ValueError as error:
        try:
            image = simplejpeg.decode_jpeg(data, "RGB", strict=False)
        except ValueError:
            image = _cv2_decode(data, "JPEG")
        warning = first_line(error)
        check_jpeg_pixels(data, image, always="premature end" in warning.lower())
        warn(warning)
    return orient(image, header.orientation)


def check_jpeg(data: bytes, max_pixels: int) -> Header:
    """Reads a JPEG's header and checks that the file has its end.

    Raises:
      DecodeError: the file is truncated, its header is corrupt, or the image is too large.
    """
    header = _jpeg_header(data)
    check_size(header.height, header.width, max_pixels)
    # The search starts at the scan: an EXIF thumbnail has an end-of-image marker of its own, and
    # lies in front of the scan.
    if data.rfind(b"\xff\xd9", header.scan) < 0:
        raise DecodeError("the JPEG is truncated: no end-of-image marker")
    if header.height * header.width > _PIXELS_PER_BYTE * (len(data) - header.scan):
        raise DecodeError(
            f"the JPEG is truncated: {len(data) - header.scan:,} bytes cannot hold "
            f"{header.width}x{header.height} pixels"
        )
    if header.progressive:
        _check_scans(data, header)
    return header


def check_jpeg_pixels(data: bytes, image: np.ndarray, always: bool = False) -> None:
    """Raises DecodeError if the decoder ran out of data before the end of the image.

    libjpeg then fills the rest with mid-grey without an error. So where the last pixels are
    mid-grey, the image is decoded once more with additional data in front of its end marker. A
    complete image does not change, since nothing is read after its last pixel.

    Args:
      data: the encoded JPEG, which `check_jpeg` has accepted.
      image: the decoded image as stored, before the orientation is undone.
      always: decode a second time whatever the last pixels are. This also finds a progressive JPEG
        that ends within its last scan, at the price of the second decoding. libjpeg warns of a
        premature end in each such file, and in some that are damaged elsewhere.
    """
    corner = image[-2:, -2:].astype(np.int16)
    cmyk = image.ndim == 3 and image.shape[2] == 4
    if not always and not cmyk and np.abs(corner - 128).max() > 1:
        return
    end = data.rfind(b"\xff\xd9")
    longer = data[:end] + _FILLER + data[end:]
    with (
        JpegImagePlugin.JpegImageFile(io.BytesIO(data)) as first,
        JpegImagePlugin.JpegImageFile(io.BytesIO(longer)) as second,
    ):
        if not np.array_equal(np.asarray(first), np.asarray(second)):
            raise DecodeError("the JPEG is truncated: its data end before the image does")


def _check_scans(data: bytes, header: Header) -> None:
    """Raises DecodeError if a progressive JPEG lacks scans (ITU-T T.81, annex G).

    Each scan holds some bits of some coefficients. A file whose last scans are missing decodes to a
    blurred image.
    """
    # The lowest bit that a scan has delivered, for each component and coefficient.
    bits: dict[tuple[int, int], int] = {}
    components: set[int] = set()
    # Within entropy-coded data no FF byte is followed by DA, so each hit is a scan.
    position = header.scan_marker
    while position >= 0:
        count = data[position + 4] if len(data) > position + 4 else 0
        body = data[position + 5 : position + 8 + 2 * count]
        if len(body) < 3 + 2 * count:
            break
        names = body[: 2 * count : 2]
        first, last, low = body[-3], body[-2], body[-1] & 15
        components.update(names)
        for name in names:
            for coefficient in range(first, min(last, 63) + 1):
                bits[name, coefficient] = low
        position = data.find(b"\xff\xda", position + 8 + 2 * count)
    if any(bits.get((name, i), 1) for name in components for i in range(64)):
        raise DecodeError("the progressive JPEG is truncated: it lacks scans")


def decode_warning(data: bytes) -> str:
    """Returns what the decoder warns of in an image that `decode` accepts, or "".

    libjpeg decodes damaged pixels, and warns of about a quarter of all damage. The rest decodes to
    other pixels without any sign. OpenCV and Pillow pass over these warnings.

    Args:
      data: the encoded image.
    """
    if sniff_format(data[:12]) != "jpeg":
        return ""
    channels = _jpeg_header(data).channels
    try:
        simplejpeg.decode_jpeg(data, "CMYK" if channels == 4 else "GRAY", strict=True)
    except ValueError as error:
        return first_line(error)
    return ""


def _jpeg_header(data: bytes) -> Header:
    """Reads the segments in front of the first scan (ITU-T T.81, annex B)."""
    position, orientation = 2, 1
    height = width = channels = -1
    progressive = False
    while True:
        # As libjpeg does, this skips fill bytes and stray bytes between segments.
        found = _MARKER.search(data, position)
        position = found.end() if found else len(data)
        if len(data) < position + 2:
            raise DecodeError("the JPEG is truncated inside its header")
        marker = data[position - 1]
        # TEM and RST0..RST7 have no length.
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            continue
        length = int.from_bytes(data[position : position + 2], "big")
        if marker in (0xD8, 0xD9) or length < 2:
            raise DecodeError("the JPEG's header is corrupt")
        body = data[position + 2 : position + length]
        position += length
        if len(data) < position:
            raise DecodeError("the JPEG is truncated inside its header")
        if marker == 0xDA:
            marker_at = position - length - 2
            break
        if marker == 0xE1 and body.startswith(b"Exif\x00\x00"):
            orientation = _exif_orientation(body)
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if len(body) < 6:
                raise DecodeError("the JPEG's header is corrupt")
            height, width, channels = struct.unpack(">xHHB", body[:6])
            progressive = marker == 0xC2
    if height < 0:
        raise DecodeError("the JPEG's header is corrupt: a scan without a frame")
    return Header(height, width, channels, orientation, position, marker_at, progressive)


def _decode_png(data: bytes, max_pixels: int) -> np.ndarray:
    header = check_png(data, max_pixels)
    # libpng warns of some profiles, and refuses text of 8 MB, which does not matter here.
    image = _cv2_decode(png_chunks.bare(data) if header.described else data, "PNG")
    return orient(_to_rgb8(image, 8 * image.itemsize), header.orientation)


def check_png(data: bytes, max_pixels: int) -> Header:
    """Reads a PNG's header and checks all chunks up to its end.

    The checksums of critical chunks are verified here, because libpng reports a wrong one only on
    stderr.

    Raises:
      DecodeError: the file is truncated or corrupt, or the image is too large.
    """
    header = _png_header(data)
    check_size(header.height, header.width, max_pixels)
    return header


def _png_header(data: bytes) -> Header:
    position, orientation, described = len(PNG_SIGNATURE), 1, False
    height = width = -1
    while True:
        start = data[position : position + 8]
        if len(start) < 8:
            raise DecodeError("the PNG is truncated: no IEND chunk")
        length, kind = struct.unpack(">I4s", start)
        end = position + 8 + length
        if len(data) < end + 4:
            raise DecodeError("the PNG is truncated inside a chunk")
        checksum = int.from_bytes(data[end : end + 4], "big")
        if kind in _PNG_CRITICAL and zlib.crc32(memoryview(data)[position + 4 : end]) != checksum:
            raise DecodeError(f"the PNG is corrupt: wrong checksum of chunk {kind.decode()}")
        if kind == b"IHDR" and length == 13:
            width, height = struct.unpack(">II", data[position + 8 : position + 16])
        elif kind == b"eXIf":
            orientation = _exif_orientation(data[position + 8 : end])
        elif kind == b"iCCP" or kind in png_chunks.TEXTS:
            described = True
        elif kind == b"IEND":
            break
        position = end + 4
    if height < 0:
        raise DecodeError("the PNG is corrupt: no IHDR chunk")
    return Header(height, width, orientation=orientation, described=described)


def check_webp(data: bytes) -> None:
    """Raises DecodeError if a WebP is shorter than its RIFF header says."""
    if len(data) < int.from_bytes(data[4:8], "little") + 8:
        raise DecodeError("the WebP is truncated")


def _decode_by_pillow(kind: str, data: bytes, max_pixels: int) -> np.ndarray:
    if kind == "webp":
        check_webp(data)
    with _PLUGINS[kind](io.BytesIO(data)) as picture:
        check_size(picture.height, picture.width, max_pixels)
        bits = (
            picture.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))[0]
            if picture.format == "TIFF"
            else 8
        )
        # For a TIFF, load() also applies the orientation.
        picture.load()
        if picture.format in ("WEBP", "AVIF"):
            exif = picture.info.get("exif", b"")
            return orient(np.asarray(picture.convert("RGB")), _exif_orientation(exif))
        if picture.mode.startswith("I;16"):
            return _to_rgb8(np.asarray(picture), bits)
        if bits == 16 and picture.mode in ("RGB", "RGBA"):
            # Pillow keeps only the high byte of 16-bit colour, so OpenCV decodes it (to BGR, with
            # the orientation applied). Pillow's load() has shown that the file is intact.
            return _to_rgb8(_cv2_decode(data, "TIFF", cv2.IMREAD_UNCHANGED)[:, :, 2::-1], bits)
        if picture.mode in ("F", "I"):
            raise DecodeError(
                f"pixels of {bits} bits (mode {picture.mode}) do not fit into 8-bit RGB"
            )
        return np.asarray(picture.convert("RGB"))


def check_size(height: int, width: int, max_pixels: int) -> None:
    """Raises DecodeError for an image without pixels or with more than `max_pixels`."""
    if height < 1 or width < 1:
        raise DecodeError(f"the header announces an image of {width}x{height} pixels")
    if height * width > max_pixels:
        raise DecodeError(f"{width}x{height} pixels are more than the limit of {max_pixels:,}")


def _cv2_decode(data: bytes, kind: str, flags: int = _CV2_FLAGS) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise DecodeError(f"the {kind} is corrupt or of an unsupported kind")
    return image


def _to_rgb8(image: np.ndarray, bits: int) -> np.ndarray:
    """Scales integers of `bits` bits to 0..255 with rounding, and turns grey into RGB."""
    if image.dtype != np.uint8:
        if image.dtype.kind != "u":
            raise DecodeError(f"pixels of type {image.dtype} do not fit into 8-bit RGB")
        top = 2**bits - 1
        image = ((image.astype(np.uint32) * 255 + top // 2) // top).clip(0, 255).astype(np.uint8)
    return np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image


def orient(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turns an image `[H, W, ...]` upright, given its EXIF orientation (1..8)."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


def _exif_orientation(exif: bytes) -> int:
    """Returns the orientation (1..8) in an EXIF block, or 1 if it has none that can be read.

    The block may start with "Exif" and two zero bytes, or with its TIFF header.
    """
    tiff = exif[6:] if exif.startswith(b"Exif\x00\x00") else exif
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(entries):
            tag, kind, count, value = struct.unpack_from(
                order + "HHIH", tiff, start + 2 + 12 * entry
            )
            if (tag, kind, count) == (ORIENTATION, 3, 1):
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
