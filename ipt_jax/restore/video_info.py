"""What ffprobe reports about a video: size, colour, bit depth, frame times and streams."""

from __future__ import annotations

import dataclasses
import functools
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

from ipt_jax.errors import VideoError
from ipt_jax.restore.ffmpeg import ffmpeg, output_of, program
from ipt_jax.storage import check_regular

# Matrix, by the name that ffprobe reports -> the name in ffmpeg's filter `scale`. The other
# matrices cannot be computed by that filter.
MATRICES = {
    "bt709": "bt709",
    "fcc": "fcc",
    "bt470bg": "bt601",
    "smpte170m": "bt601",
    "smpte240m": "smpte240m",
    "bt2020nc": "bt2020",
}
# Transfer functions of high dynamic range: PQ and HLG.
_HDR = {"smpte2084": "PQ", "arib-std-b67": "HLG"}
# Players read a video without tags as BT.601 below this height in pixels, and else as BT.709.
HD_HEIGHT = 720
_UNTAGGED = (None, "unknown", "unspecified", "reserved", "reserved0")


@dataclasses.dataclass(frozen=True)
class Colour:
    """How the numbers of a video stand for colours, by ffprobe's names.

    Attributes:
      matrix: a key of `MATRICES`: how Y, Cb and Cr are computed from R, G and B.
      full: whether values take the complete range (pc, 0..255) or the limited one (tv, 16..235).
      primaries: the colours of R, G and B.
      transfer: the transfer function.
    """

    matrix: str
    full: bool
    primaries: str
    transfer: str

    @property
    def range(self) -> str:
        """The range by ffmpeg's name."""
        return "pc" if self.full else "tv"


@dataclasses.dataclass(frozen=True)
class PixelFormat:
    """How a video stores its pixels.

    Attributes:
      name: ffmpeg's name.
      rgb: whether it stores R, G and B.
      alpha: whether it stores transparency.
      depth: bits of a channel.
      chroma: "444", "422" or "420": the chroma's resolution that keeps at least as much.
    """

    name: str
    rgb: bool
    alpha: bool
    depth: int
    chroma: str


@dataclasses.dataclass(frozen=True)
class Timing:
    """The times of all frames.

    Attributes:
      ticks: the time of each frame in `unit`, strictly increasing; 0 is the start of the file.
      unit: a tick in seconds.
      rate: frames per second if the rate is constant, else None.
      last: how long the last frame is shown, in ticks.
      notes: remarks for the user.
    """

    ticks: list[int]
    unit: Fraction
    rate: Fraction | None
    last: int
    notes: tuple[str, ...] = ()

    def span(self, number: int) -> tuple[Fraction, Fraction]:
        """Returns when a frame is shown, counted from the first frame, and for how long, in s."""
        if self.rate:
            return number / self.rate, 1 / self.rate
        ends = [*self.ticks[number + 1 : number + 2], self.ticks[number] + self.last]
        tick = self.ticks[number]
        return (tick - self.ticks[0]) * self.unit, (ends[0] - tick) * self.unit


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """A video file.

    Attributes:
      path: the file.
      stream: ffprobe's description of the stream that holds the video.
      others: ffprobe's descriptions of all other streams.
      height, width: of a frame in its upright orientation.
      turned: whether the stored frames are turned by 90 degrees.
      pixels: how pixels are stored.
      colour: what their numbers mean; conventional values where the file has no tags.
      notes: remarks for the user.
    """

    path: Path
    stream: dict[str, Any]
    others: list[dict[str, Any]]
    height: int
    width: int
    turned: bool
    pixels: PixelFormat
    colour: Colour
    notes: tuple[str, ...]

    @property
    def aspect(self) -> Fraction:
        """Width of a pixel over its height, in the upright orientation; 1 where it is unknown."""
        ratio = _fraction(str(self.stream.get("sample_aspect_ratio", "")).replace(":", "/"))
        return Fraction(1) if not ratio else 1 / ratio if self.turned else ratio


def measure_video(path: Path) -> tuple[int, int, int] | None:
    """Returns height, width and number of frames of a video in its upright orientation.

    The number is an estimate, and 0 where it is unknown. The result is None where ffprobe is
    missing or finds no video.
    """
    try:
        probed = _probe(path)
        stream = _video_stream(probed)
        height, width, _ = _size(stream)
        seconds = float(stream.get("duration") or probed.get("format", {}).get("duration") or 0)
        frames = int(stream.get("nb_frames", 0)) or round(_rate(stream) * seconds)
    except (VideoError, KeyError, ValueError, OSError):
        return None
    return height, width, frames


def read_info(path: Path) -> VideoInfo:
    """Reads what restoration needs to know about a video.

    Raises:
      VideoError: ffprobe is missing, the file contains no video, or its colours cannot be kept:
        high dynamic range, or a matrix that ffmpeg cannot compute.
    """
    probed = _probe(path)
    stream = _video_stream(probed)
    try:
        height, width, turned = _size(stream)
    except (KeyError, ValueError):
        raise VideoError("ffprobe does not report the size of the video") from None
    pixels = _pixel_format(stream.get("pix_fmt"))
    colour = _colour(stream, pixels)
    notes = []
    if pixels.alpha or str(stream.get("tags", {}).get("alpha_mode")) == "1":
        notes.append("its transparency is left out")
    if pixels.depth > 10:
        notes.append(f"its {pixels.depth} bits become 10")
    if stream.get("field_order") in ("tt", "bb", "tb", "bt"):
        notes.append(
            "it is interlaced, and both fields of a frame are restored as one image; remove the "
            "interlacing before (ffmpeg -i IN -vf bwdif OUT)"
        )
    if stream.get("closed_captions"):
        notes.append("the captions within its frames are left out")
    for side in stream.get("side_data_list", ()):
        if (kind := side.get("side_data_type")) in ("Spherical Mapping", "Stereo 3D"):
            notes.append(f"the description of its projection ({kind}) is left out")
    others = [one for one in probed["streams"] if one["index"] != stream["index"]]
    return VideoInfo(path, stream, others, height, width, turned, pixels, colour, tuple(notes))


def _probe(path: Path) -> dict[str, Any]:
    """Returns what ffprobe reports about a file and its streams."""
    try:
        # ffprobe would wait for ever for a pipe.
        check_regular(path)
    except OSError as error:
        raise VideoError(error.strerror or str(error)) from None
    command = [program("ffprobe"), "-v", "error", "-show_streams", "-show_format"]
    found = output_of([*command, "-of", "json", f"file:{path}"], "not a video", timeout=60)
    return dict(json.loads(found or "{}"))


def _video_stream(probed: dict[str, Any]) -> dict[str, Any]:
    """Returns the first stream that is a video, and not a cover image."""
    for stream in probed.get("streams", ()):
        cover = stream.get("disposition", {}).get("attached_pic")
        if stream.get("codec_type") == "video" and not cover:
            return dict(stream)
    raise VideoError("not a video: the file has no video stream")


def _size(stream: dict[str, Any]) -> tuple[int, int, bool]:
    """Returns the upright height and width, and whether stored frames are turned by 90 degrees."""
    width, height = int(stream["width"]), int(stream["height"])
    if not (width and height):
        raise ValueError("the size is 0")
    sides = stream.get("side_data_list", ())
    turned = any(int(side.get("rotation", 0)) % 180 for side in sides)
    return (width, height, True) if turned else (height, width, False)


def _fraction(text: Any) -> Fraction:
    """Returns the value of a fraction such as "30000/1001"; 0 for "0/0" and other text."""
    try:
        return Fraction(str(text))
    except (ValueError, ZeroDivisionError):
        return Fraction(0)


def _rate(stream: dict[str, Any]) -> Fraction:
    return _fraction(stream.get("avg_frame_rate")) or _fraction(stream.get("r_frame_rate"))


@functools.cache
def _pixel_format(name: str | None) -> PixelFormat:
    """Returns what ffmpeg knows about a pixel format."""
    command = [program("ffprobe"), "-v", "error", "-show_pixel_formats", "-of", "json"]
    known = json.loads(output_of(command, "ffprobe", timeout=60))["pixel_formats"]
    for one in known:
        if one["name"] == name:
            flags = one["flags"]
            wide, high = (int(one.get(f"log2_chroma_{side}", 0)) for side in "wh")
            # Values of a palette are colours of 8 bits.
            rgb = bool(flags["rgb"] or flags["palette"])
            depth = max(int(channel["bit_depth"]) for channel in one["components"])
            grey = int(one["nb_components"]) < 3
            chroma = "444" if rgb or not wide else "420" if high else "422"
            return PixelFormat(
                str(name), rgb, bool(flags["alpha"]), depth, "420" if grey and not rgb else chroma
            )
    raise VideoError(f"its codec or its pixel format ({name}) is unknown to this ffmpeg")


def _colour(stream: dict[str, Any], pixels: PixelFormat) -> Colour:
    """Returns the tags of a video, completed by convention; raises VideoError for HDR."""

    def tag(key: str) -> str | None:
        value = stream.get(key)
        return None if value in _UNTAGGED else str(value)

    _refuse_hdr(stream)
    height = int(stream["height"])
    matrix = tag("color_space")
    if matrix is None or pixels.rgb:
        matrix = "smpte170m" if height < HD_HEIGHT else "bt709"
    if matrix not in MATRICES:
        raise VideoError(
            f"its colours are stored with the matrix {matrix}, which cannot be kept; convert it "
            "to bt709 before"
        )
    # Full range is what ffmpeg assumes for these formats.
    full = pixels.name.startswith(("yuvj", "gray"))
    if (tagged := tag("color_range")) is not None:
        full = tagged == "pc"
    if pixels.rgb:
        # Y, Cb and Cr have limited range by convention.
        full = False
    # Sizes of analogue television have its primaries; for the others most players assume BT.709.
    usual = {480: "smpte170m", 486: "smpte170m", 576: "bt470bg"}.get(height, "bt709")
    if matrix in ("bt709", "bt2020nc") or pixels.rgb:
        usual = "bt2020" if matrix == "bt2020nc" else "bt709"
    primaries = tag("color_primaries") or usual
    return Colour(matrix, full, primaries, tag("color_transfer") or "bt709")


def _refuse_hdr(stream: dict[str, Any]) -> None:
    """Raises VideoError for high dynamic range."""
    kind = _HDR.get(str(stream.get("color_transfer")))
    for side in stream.get("side_data_list", ()):
        # Without a compatible base layer, Dolby Vision has colours of its own.
        if "dv_profile" in side and not side.get("dv_bl_signal_compatibility_id"):
            kind = "Dolby Vision"
    if kind:
        raise VideoError(
            f"it has high dynamic range ({kind}), for which the network is not made; convert it "
            "to standard range before, for example: ffmpeg -i IN -vf zscale=t=linear:npl=100,"
            "format=gbrpf32le,zscale=p=bt709,tonemap=hable,zscale=t=bt709:m=bt709:r=tv,"
            "format=yuv420p10le OUT"
        )


def read_timing(info: VideoInfo) -> Timing:
    """Decodes a video once to learn the time of every frame.

    Raises:
      VideoError: ffmpeg fails, or the video contains no frame.
    """
    unit = _fraction(info.stream.get("time_base")) or Fraction(1, 90000)
    command = [
        *ffmpeg(),
        *("-i", f"file:{info.path}", "-map", f"0:{info.stream['index']}"),
        *("-fps_mode", "passthrough", "-enc_time_base", f"{unit.numerator}/{unit.denominator}"),
        *("-f", "framecrc", "-"),
    ]
    rows = [
        [int(word) for word in line.split(",")[2:5]]
        for line in output_of(command, "ffmpeg").splitlines()
        if line and not line.startswith("#")
    ]
    if not rows:
        raise VideoError("the video contains no frame")
    notes = []
    if len({size for _, _, size in rows}) > 1:
        notes.append("the size of its frames changes; all are scaled to the first")
    ticks = [pts for pts, _, _ in rows]
    repaired = increasing(ticks)
    if repaired != ticks:
        moved = sum(a != b for a, b in zip(ticks, repaired, strict=True))
        notes.append(f"{moved} frames have no time of their own, and are moved by a moment")
    last = max(rows[-1][1], 0)
    rate = constant_rate(repaired, unit, info.stream)
    return Timing(repaired, unit, rate, last, tuple(notes))


def increasing(ticks: list[int]) -> list[int]:
    """Returns strictly increasing times that differ from these only where they must."""
    out: list[int] = []
    for tick in ticks:
        out.append(max(tick, out[-1] + 1) if out else tick)
    return out


def constant_rate(ticks: list[int], unit: Fraction, stream: dict[str, Any]) -> Fraction | None:
    """Returns the rate at which all frames follow each other up to rounding, or None."""
    for key in ("r_frame_rate", "avg_frame_rate"):
        rate = _fraction(stream.get(key))
        if not rate:
            continue
        errors = [abs((tick - ticks[0]) * unit - i / rate) for i, tick in enumerate(ticks)]
        # Times may be rounded to ticks, but where a frame takes few ticks they must be exact.
        if max(errors) < unit if 4 * unit * rate <= 1 else not any(errors):
            return rate
    return None
