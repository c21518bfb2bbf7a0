"""A stream of uncompressed images, each with its time, which ffmpeg reads from its standard input.

Raw video has no times, so frames of a video with a varying rate need a container. Matroska (RFC
9559) can be written as a stream. Numbers of elements are written in hexadecimal, as in the RFC.
"""

from __future__ import annotations

from fractions import Fraction

# Times are in nanoseconds.
_PER_SECOND = 1_000_000_000


def _length(number: int) -> bytes:
    return (number | 1 << 56).to_bytes(8, "big")


def _element(name: str, *content: bytes) -> bytes:
    body = b"".join(content)
    return bytes.fromhex(name) + _length(len(body)) + body


def _number(name: str, value: int) -> bytes:
    return _element(name, value.to_bytes(8, "big"))


def header(height: int, width: int, depth: int, rate: Fraction | None = None) -> bytes:
    """Returns the beginning of a stream.

    Args:
      height, width: of all frames.
      depth: bits of a channel, 8 or 16.
      rate: frames per second if the rate is constant.
    """
    # The EBML header names the type of the file.
    start = _element(
        "1A45DFA3", _element("4282", b"matroska"), _number("4287", 4), _number("4285", 2)
    )
    # A segment of unknown length contains all that follows.
    segment = bytes.fromhex("18538067") + b"\x01" + b"\xff" * 7
    unit = _number("2AD7B1", 1)
    info = _element("1549A966", unit, _element("4D80", b"ipt"), _element("5741", b"ipt"))
    video = _element(
        "E0",
        _number("B0", width),
        _number("BA", height),
        # The format is ffmpeg's fourcc for R, G, B.
        _element("2EB524", b"RGB" + bytes([3 * depth])),
    )
    duration = _number("23E383", round(_PER_SECOND / rate)) if rate else b""
    track = _element(
        "AE",
        *(_number("D7", 1), _number("73C5", 1), _number("83", 1)),
        *(_element("86", b"V_UNCOMPRESSED"), duration, video),
    )
    return start + segment + info + _element("1654AE6B", track)


def frame(time: Fraction, duration: Fraction, pixels: bytes) -> bytes:
    """Returns one frame.

    Args:
      time: in seconds, from the start of the stream.
      duration: how long the frame is shown, in seconds.
      pixels: R, G and B of all pixels in rows from the top, little-endian.
    """
    # A block of track 1 with an offset of 0 to its cluster's time.
    block = _element("A1", b"\x81\x00\x00\x80", pixels)
    group = _element("A0", block, _number("9B", round(duration * _PER_SECOND)))
    return _element("1F43B675", _number("E7", round(time * _PER_SECOND)), group)
