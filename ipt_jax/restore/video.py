"""Restores videos frame by frame, with ffmpeg as decoder and encoder.

The result has the colour tags, the frame times and the bit depth of its source: frames pass between
ffmpeg and the network as R, G and B with 8 or 16 bits, computed by the source's own matrix and
range.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ipt_jax.errors import VideoError
from ipt_jax.images.write import part_path
from ipt_jax.restore import matroska, video_streams
from ipt_jax.restore.ffmpeg import ffmpeg, reason, started
from ipt_jax.restore.images import to_uint8
from ipt_jax.restore.plan import Job
from ipt_jax.restore.restorer import Restorer
from ipt_jax.restore.tiling import Tiling
from ipt_jax.restore.video_info import MATRICES, Timing, VideoInfo, read_info, read_timing

# The constant rate factor of x264 at which no loss is visible.
CRF = 16
# A quality of 1..100 becomes a constant rate factor of 45..5: offset and slope.
_CRF_OF = (45.4, 0.404)
# Without these flags, ffmpeg's conversion between RGB and YCbCr is off by several levels.
_EXACT = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
# Location of 4:2:0 chroma -> its horizontal and vertical position, in 1/256 of a luma pixel. Videos
# without a tag have it on the left.
_CHROMA = {"left": (0, 128), "center": (128, 128), "topleft": (0, 0), "top": (128, 0)}
# Primaries and transfer functions whose names as an encoder's option differ from ffprobe's.
_TRANSFER_OPTIONS = {"bt470m": "gamma22", "bt470bg": "gamma28"}


def restore_video(
    model: Restorer,
    job: Job,
    tasks: list[str],
    *,
    tiling: Tiling,
    batch: int,
    quality: int | None,
    done: Callable[[int], Any],
    say: Callable[[str], Any],
) -> None:
    """Restores every frame of a video. Tiles of several frames share a call.

    Sound, subtitles, chapters, cover images and attached files are copied where the container of
    the result allows it. Other sound and text is encoded, the rest is left out, and `say` reports
    both.

    Args:
      model: the model.
      job: the video and its result.
      tasks: tasks that are applied one after the other.
      tiling: how frames are cut into tiles.
      batch: tiles per call and device.
      quality: 1..100; None for `CRF`.
      done: called with the number of tiles of each finished frame.
      say: called with each remark for the user on what is changed or left out.

    Raises:
      VideoError: ffmpeg is missing or fails, the file contains no video, or its colours or its
        frame times cannot be kept.
    """
    info = read_info(job.source)
    timing = read_timing(info)
    suffix = job.out.suffix.lower()
    if suffix == ".avi" and timing.rate is None:
        raise VideoError(
            "its frame rate varies, which an .avi cannot hold; name an .mp4 or .mkv with -o"
        )
    kept, notes = video_streams.keep_streams(info, suffix)
    for note in (*info.notes, *timing.notes, *notes):
        say(note)
    tiles_per_frame = model.tiles(info.height, info.width, tasks, **tiling)
    part = part_path(job.out)
    crf = CRF if quality is None else round(_CRF_OF[0] - _CRF_OF[1] * quality)
    try:
        with started(_decoder(info), stdout=subprocess.PIPE) as source:
            frames = _frames(source.process.stdout, info, len(timing.ticks))
            for task in tasks:
                frames = _clipped(model.restore_all(frames, task, batch=batch, **tiling))
            _encode(frames, info, timing, crf, kept, part, lambda: done(tiles_per_frame))
            source.finish()
            # ffmpeg decodes what it can of damaged frames.
            if messages := source.messages():
                say(f"ffmpeg reports on the source: {reason(messages)}")
        part.replace(job.out)
    finally:
        part.unlink(missing_ok=True)


def _encode(
    frames: Iterator[np.ndarray],
    info: VideoInfo,
    timing: Timing,
    crf: int,
    kept: list[video_streams.Kept],
    part: Path,
    done: Callable[[], Any],
) -> None:
    """Writes restored frames and the kept streams into `part`."""
    deep = info.pixels.depth > 8
    with contextlib.ExitStack() as stack:
        out = None
        for number, frame in enumerate(frames):
            if out is None:
                height, width = frame.shape[:2]
                command = _encoder(info, timing, (height, width), crf, kept, part)
                out = stack.enter_context(started(command, stdin=subprocess.PIPE))
                out.feed(matroska.header(height, width, 16 if deep else 8, timing.rate))
            pixels = _to_uint16(frame) if deep else to_uint8(frame)
            out.feed(matroska.frame(*timing.span(number), pixels.tobytes()))
            done()
        assert out is not None, "read_timing refuses videos without frames"
        out.finish()


def _decoder(info: VideoInfo) -> list[str]:
    """Returns the command that writes the frames of a video to its standard output."""
    source = "" if info.pixels.rgb else f":in_color_matrix={MATRICES[info.colour.matrix]}"
    if not info.pixels.rgb:
        source += f":in_range={info.colour.range}"
    if info.pixels.chroma == "420":
        across, down = _CHROMA.get(str(info.stream.get("chroma_location")), _CHROMA["left"])
        source += f":in_h_chr_pos={across}:in_v_chr_pos={down}"
    pixels = "rgb48le" if info.pixels.depth > 8 else "rgb24"
    scale = f"scale={info.width}:{info.height}:out_range=pc:{_EXACT}{source},format={pixels}"
    return [
        *ffmpeg(),
        *("-i", f"file:{info.path}", "-map", f"0:{info.stream['index']}", "-vf", scale),
        *("-fps_mode", "passthrough", "-f", "rawvideo", "-"),
    ]


def _encoder(
    info: VideoInfo,
    timing: Timing,
    shape: tuple[int, int],
    crf: int,
    kept: list[video_streams.Kept],
    part: Path,
) -> list[str]:
    """Returns the command that encodes frames from its standard input, with the kept streams."""
    suffix, colour = part.suffix.lower(), info.colour
    codec = ["libx264", "-preset", "medium"]
    if suffix == ".webm":
        codec = ["libvpx-vp9", "-b:v:0", "0"]
    elif suffix == ".avi":
        # An .avi has no place for the order of frames that refer to later frames.
        codec += ["-bf", "0"]
    # Subsampled chroma needs even sides.
    even = shape[0] % 2 == shape[1] % 2 == 0
    pixels = f"yuv{info.pixels.chroma if even else '444'}p"
    pixels += "10le" if info.pixels.depth > 8 else ""
    unit = _output_unit(timing, suffix)
    chroma = ":out_h_chr_pos=0:out_v_chr_pos=128" if pixels.startswith("yuv420") else ""
    filters = [
        f"scale=in_range=pc:out_range={colour.range}"
        f":out_color_matrix={MATRICES[colour.matrix]}:{_EXACT}{chroma}",
        f"format={pixels}",
        # Later versions of ffmpeg take the tags from the frames, earlier ones from the options.
        f"setparams=range={colour.range}:colorspace={colour.matrix}"
        f":color_primaries={colour.primaries}:color_trc={colour.transfer}",
        f"setsar={info.aspect.numerator}/{info.aspect.denominator}",
    ]
    return [
        *ffmpeg(),
        "-y",
        # ffmpeg moves the start of each input to 0.
        *("-itsoffset", f"{float(timing.ticks[0] * timing.unit):.9f}"),
        *("-f", "matroska", "-i", "-", "-i", f"file:{info.path}", "-map", "0:v:0"),
        *video_streams.options(kept),
        *("-filter:v:0", ",".join(filters), "-fps_mode:v:0", "passthrough"),
        *("-enc_time_base:v:0", f"{unit.numerator}/{unit.denominator}"),
        "-c:v:0",
        *codec,
        *("-crf:v:0", str(crf), "-color_range:v:0", colour.range),
        *("-colorspace:v:0", colour.matrix, "-color_primaries:v:0", colour.primaries),
        *("-color_trc:v:0", _TRANSFER_OPTIONS.get(colour.transfer, colour.transfer)),
        *(("-chroma_sample_location:v:0", "left") if chroma else ()),
        *("-map_metadata", "1", "-map_chapters", "1", "-metadata:s:v:0", "rotate="),
        f"file:{part}",
    ]


def _output_unit(timing: Timing, suffix: str) -> Fraction:
    """Returns the unit of time in seconds in which the encoder counts."""
    if timing.rate is None:
        return timing.unit
    start = timing.ticks[0] * timing.unit * timing.rate
    # A start between two frames needs a finer unit. The unit of an .avi is always one frame.
    finer = start.denominator > 1 and suffix != ".avi"
    return 1 / (timing.rate * (1000 if finer else 1))


def _frames(stream: Any, info: VideoInfo, count: int) -> Iterator[np.ndarray]:
    """Yields frames `[H, W, 3]`, uint8, or float32 in 0..255 where the video has more than 8 bits.

    Raises:
      VideoError: the stream does not have `count` frames.
    """
    deep = info.pixels.depth > 8
    size = info.height * info.width * (6 if deep else 3)
    for number in range(count):
        data = stream.read(size)
        if len(data) != size:
            raise VideoError(f"ffmpeg gave {number} frames, and {count} when it counted them")
        frame = np.frombuffer(data, "<u2" if deep else np.uint8)
        frame = frame.reshape(info.height, info.width, 3)
        yield frame.astype(np.float32) / np.float32(257) if deep else frame
    if stream.read(1):
        raise VideoError(f"ffmpeg gave more frames than the {count} that it counted")


def _clipped(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    for frame in frames:
        yield np.clip(frame, 0, 255, out=frame)


def _to_uint16(frame: np.ndarray) -> np.ndarray:
    """Returns a frame in 0..255 as little-endian uint16 in 0..65535."""
    return np.floor(np.clip(frame, 0, 255) * 257 + 0.5).astype("<u2")
