"""Restores videos frame by frame, with ffmpeg as decoder and encoder."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ipt_jax.errors import VideoError
from ipt_jax.restore.images import to_uint8
from ipt_jax.restore.plan import Job
from ipt_jax.restore.restorer import Restorer
from ipt_jax.restore.tiling import Tiling
from ipt_jax.storage import check_regular

# The constant rate factor of x264 at which no loss is visible.
CRF = 16
# A quality of 1..100 becomes a constant rate factor of 45..5: offset and slope.
_CRF_OF = (45.4, 0.404)


def _program(name: str) -> str:
    """Returns the path of a program; raises VideoError if it is not installed."""
    found = shutil.which(name)
    if found is None:
        raise VideoError(
            f"videos need {name}, which is not installed (apt install ffmpeg, brew install ffmpeg)"
        )
    return found


def measure_video(path: Path) -> tuple[int, int, int] | None:
    """Returns height, width and number of frames of a video in its upright orientation.

    The number is 0 where it is unknown. The result is None where ffprobe is missing or finds no
    video.
    """
    try:
        stream = _probe(path)
        width, height = int(stream["width"]), int(stream["height"])
        sides = stream.get("side_data_list", ())
        turned = any(int(side.get("rotation", 0)) % 180 for side in sides)
        rate, duration = _fraction(stream["avg_frame_rate"]), float(stream.get("duration", 0))
        frames = int(stream.get("nb_frames", 0)) or round(rate * duration)
    except (VideoError, KeyError, ValueError, ZeroDivisionError, subprocess.SubprocessError):
        return None
    return (width, height, frames) if turned else (height, width, frames)


def _fraction(text: str) -> float:
    """Returns the value of a fraction such as "30000/1001"."""
    top, _, bottom = text.partition("/")
    return float(top) / float(bottom or 1)


def _probe(path: Path) -> Any:
    """Returns what ffprobe reports about the first video stream; raises VideoError without one."""
    try:
        check_regular(path)
    except OSError as error:
        raise VideoError(error.strerror or str(error)) from None
    command = [
        _program("ffprobe"),
        "-v",
        "error",
        "-select_streams",
        "v:0",
        "-show_streams",
        "-of",
        "json",
        f"file:{path}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    streams = json.loads(done.stdout or "{}").get("streams")
    if done.returncode or not streams:
        raise VideoError(f"not a video: {_last_line(done.stderr)}")
    return streams[0]


def _last_line(text: str) -> str:
    return next(reversed(text.strip().splitlines()), "no reason given")


def restore_video(
    model: Restorer,
    job: Job,
    tasks: list[str],
    *,
    tiling: Tiling,
    batch: int,
    quality: int | None,
    done: Callable[[int], Any],
) -> None:
    """Restores every frame of a video, and copies its sound. Tiles of several frames share a call.

    Args:
      model: the model.
      job: the video and its result.
      tasks: tasks that are applied one after the other.
      tiling: how frames are cut into tiles.
      batch: tiles per call and device.
      quality: 1..100; None for `CRF`.
      done: called with the number of tiles of each finished frame.

    Raises:
      VideoError: ffmpeg is missing or fails, or the file contains no video.
    """
    stream = _probe(job.source)
    size = measure_video(job.source)
    if size is None:
        raise VideoError("ffprobe does not report its size")
    height, width = size[:2]
    tiles_per_frame = model.tiles(height, width, tasks, **tiling)
    part = job.out.with_name(f".{job.out.stem}.part{job.out.suffix}")
    crf = CRF if quality is None else round(_CRF_OF[0] - _CRF_OF[1] * quality)
    rate = (
        stream["avg_frame_rate"] if _fraction(stream["avg_frame_rate"]) else stream["r_frame_rate"]
    )
    ffmpeg = [_program("ffmpeg"), "-v", "error", "-nostdin"]
    try:
        with _started(_decoder(ffmpeg, rate, job.source), stdout=subprocess.PIPE) as source:
            frames = _frames(source.process.stdout, height, width)
            for task in tasks:
                frames = _clipped(model.restore_all(frames, task, batch=batch, **tiling))
            out: _Process | None = None
            with contextlib.ExitStack() as stack:
                for frame in frames:
                    if out is None:
                        command = _encoder(ffmpeg, frame.shape, rate, crf, job.source, part)
                        out = stack.enter_context(_started(command, stdin=subprocess.PIPE))
                    out.feed(to_uint8(frame).tobytes())
                    done(tiles_per_frame)
                source.finish()
                if out is None:
                    raise VideoError("the video contains no frame")
                out.finish()
        part.replace(job.out)
    finally:
        part.unlink(missing_ok=True)


def _decoder(ffmpeg: list[str], rate: str, source: Path) -> list[str]:
    """Returns the command that writes the frames of a video to its standard output."""
    return [
        *ffmpeg,
        *("-i", f"file:{source}"),
        *("-map", "0:v:0", "-fps_mode", "cfr", "-r", rate),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-"),
    ]


def _encoder(
    ffmpeg: list[str], shape: tuple[int, ...], rate: str, crf: int, source: Path, part: Path
) -> list[str]:
    """Returns the command that encodes frames from its standard input, with sound of the source."""
    webm = part.suffix.lower() == ".webm"
    codec = (
        ["-c:v", "libvpx-vp9", "-b:v", "0"] if webm else ["-c:v", "libx264", "-preset", "medium"]
    )
    # Subsampled chroma needs even sides.
    pixels = "yuv420p" if shape[0] % 2 == shape[1] % 2 == 0 else "yuv444p"
    return [
        *ffmpeg,
        "-y",
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{shape[1]}x{shape[0]}", "-r", rate),
        *("-i", "-"),
        *("-i", f"file:{source}"),
        *("-map", "0:v", "-map", "1:a?"),
        *codec,
        *("-crf", str(crf), "-pix_fmt", pixels, "-c:a", "copy"),
        *("-map_metadata", "1", "-metadata:s:v:0", "rotate="),
        f"file:{part}",
    ]


def _frames(stream: Any, height: int, width: int) -> Iterator[np.ndarray]:
    """Yields frames uint8 `[height, width, 3]`."""
    size = height * width * 3
    while len(data := stream.read(size)) == size:
        yield np.frombuffer(data, np.uint8).reshape(height, width, 3)


def _clipped(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    for frame in frames:
        yield np.clip(frame, 0, 255, out=frame)


class _Process:
    """A running program, and the file that collects its messages."""

    def __init__(self, process: subprocess.Popen[bytes], errors: Any):
        self.process, self._errors = process, errors

    def feed(self, data: bytes) -> None:
        """Writes to the program's standard input; raises VideoError if the program has failed."""
        try:
            self.process.stdin.write(data)  # type: ignore[union-attr]
        except BrokenPipeError:
            self.finish()
            raise VideoError("ffmpeg stopped before the last frame") from None

    def finish(self) -> None:
        """Waits for the end of the program; raises VideoError if it failed."""
        if self.process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        code = self.process.wait(timeout=600)
        self._errors.seek(0)
        messages = self._errors.read().decode(errors="replace")
        if code:
            raise VideoError(f"ffmpeg: {_last_line(messages)}")


@contextlib.contextmanager
def _started(command: list[str], **pipes: Any) -> Iterator[_Process]:
    """Runs a program, and kills it at the end of the block if it is still running."""
    # Messages go to a file, because a pipe could fill up and block the program.
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stderr=errors, **pipes)
        try:
            yield _Process(process, errors)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=60)
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
