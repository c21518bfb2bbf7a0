"""What becomes of the sound, the subtitles and the other streams of a video.

A stream is copied where the container of the result can hold it. Other sound and text is encoded.
What can be neither copied nor encoded is left out. ffmpeg itself is asked what a container can
hold: it writes the first second of the stream into a file of that container.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from ipt_jax.errors import VideoError
from ipt_jax.restore.ffmpeg import ffmpeg, output_of
from ipt_jax.restore.video_info import VideoInfo

# Suffix of the container -> encoder of sound that the container cannot hold as it is stored.
_SOUND = {".webm": "libopus", ".mkv": "flac", ".avi": "pcm_s16le"}
_SUBTITLES = {".webm": "webvtt", ".mkv": "srt", ".avi": None}
# Encoder -> bits per second and channel, for encoders with loss.
_BITS = {"aac": 128_000, "libopus": 96_000}
_NAMES = {
    "audio": "sound",
    "subtitle": "subtitles",
    "video": "cover image",
    "attachment": "attached file",
    "data": "data",
}


@dataclasses.dataclass(frozen=True)
class Kept:
    """A stream of the source in the result.

    Attributes:
      index: its number in the source.
      kind: ffprobe's type of the stream, such as "audio".
      coding: the options that say how it is coded, such as ("-c", "copy").
    """

    index: int
    kind: str
    coding: tuple[str, ...]


def keep_streams(info: VideoInfo, suffix: str) -> tuple[list[Kept], list[str]]:
    """Decides what becomes of all streams except the restored one.

    Args:
      info: the video.
      suffix: suffix of the result in lower case, which decides on its container.

    Returns:
      The streams to keep, and remarks on those that are changed or left out.
    """
    kept, notes = [], []
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / f"trial{suffix}"
        for stream in info.others:
            decided, note = _decide(info.path, stream, suffix, trial)
            kept += [decided] if decided else []
            notes += [note] if note else []
    return kept, notes


def _decide(
    source: Path, stream: dict[str, Any], suffix: str, trial: Path
) -> tuple[Kept | None, str]:
    """Returns what becomes of a stream, and a remark if it is not copied."""
    kind, index = str(stream.get("codec_type", "unknown")), int(stream["index"])
    name = f"its {_NAMES.get(kind, kind)} (stream {index}, {stream.get('codec_name', 'unknown')})"
    # QuickTime stores the names of chapters as a stream; ffmpeg copies chapters by itself.
    if kind == "data" and stream.get("codec_tag_string") == "text":
        return None, ""
    if kind == "video" and not stream.get("disposition", {}).get("attached_pic"):
        return None, f"its second video (stream {index}) is left out"
    if kind not in ("audio", "subtitle", "video", "attachment"):
        return None, f"{name} is left out"
    copied = Kept(index, kind, ("-c", "copy"))
    reason = _refused(source, copied, trial)
    if not reason:
        return copied, ""
    encoder = None
    if kind == "audio":
        encoder = _SOUND.get(suffix, "aac")
    elif kind == "subtitle":
        encoder = _SUBTITLES.get(suffix, "mov_text")
    if encoder:
        encoded = Kept(index, kind, _coding(encoder, int(stream.get("channels", 2))))
        reason = _refused(source, encoded, trial)
        if not reason:
            return encoded, f"{name} does not fit into {suffix}, and is encoded as {encoder}"
    return None, f"{name} does not fit into {suffix}, and is left out ({reason})"


def _coding(encoder: str, channels: int) -> tuple[str, ...]:
    """Returns the options for an encoder."""
    coding = ["-c", encoder]
    if encoder in _BITS:
        coding += ["-b", str(_BITS[encoder] * channels)]
    if encoder == "libopus":
        # Opus refuses some arrangements of loudspeakers, such as 5.1(side).
        coding += ["-filter", "aformat=channel_layouts=7.1|5.1|stereo|mono"]
    return tuple(coding)


def _refused(source: Path, kept: Kept, trial: Path) -> str:
    """Returns why ffmpeg cannot write a stream into the container of `trial`; "" if it can."""
    command = [
        *ffmpeg(),
        *("-y", "-i", f"file:{source}", "-map", f"0:{kept.index}", "-t", "1"),
        *kept.coding,
        f"file:{trial}",
    ]
    try:
        output_of(command, "ffmpeg")
    except VideoError as error:
        return str(error)
    return ""


def options(kept: list[Kept]) -> list[str]:
    """Returns ffmpeg's options for an output with these streams of input 1 after its video."""
    words = []
    for number, one in enumerate(kept, start=1):
        words += ["-map", f"1:{one.index}"]
        for name, value in zip(one.coding[::2], one.coding[1::2], strict=True):
            words += [f"{name}:{number}", value]
    return words
