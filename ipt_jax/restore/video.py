"""Videos frame by frame, through ffmpeg where it is installed."""

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
from ipt_jax.restore.plan import Item
from ipt_jax.restore.restorer import Restorer

# Of x264: visually without loss
CRF = 16

# `--quality` 1..100 -> crf 45..5.
_CRF_OF = (45.4, 0.404)


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise VideoError(
            f"videos need {name}, which is not installed (apt install ffmpeg, brew install ffmpeg)"
        )
    return found


def measure(path: Path) -> tuple[int, int, int] | None:
    """(height, width, frames; 0 where unknown), upright; None where ffprobe is missing or finds no
    video.
    """
    try:
        said = _probe(path)
        width, height = int(said["width"]), int(said["height"])
        turned = any(int(side.get("rotation", 0)) % 180 for side in said.get("side_data_list", ()))
        rate, duration = _fraction(said["avg_frame_rate"]), float(said.get("duration", 0))
        frames = int(said.get("nb_frames", 0)) or round(rate * duration)
    except (VideoError, KeyError, ValueError, ZeroDivisionError, subprocess.SubprocessError):
        return None
    return (width, height, frames) if turned else (height, width, frames)


def _fraction(text: str) -> float:
    top, _, bottom = text.partition("/")
    return float(top) / float(bottom or 1)


def _probe(path: Path) -> Any:
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
        raise VideoError(f"not a video: {_last(done.stderr)}")
    return streams[0]


def _last(text: str) -> str:
    return next(reversed(text.strip().splitlines()), "no reason given")


def restore(
    model: Restorer,
    item: Item,
    tasks: list[str],
    cut: dict[str, Any],
    batch: int,
    quality: int | None,
    done: Callable[[int], Any],
) -> None:
    """Restores every frame; sound and subtitles are copied. Tiles of several frames fill a call.

    Raises:
      VideoError: ffmpeg is missing or fails, or there is no video in the file.
    """
    stream = _probe(item.source)
    size = measure(item.source)
    if size is None:
        raise VideoError("its size cannot be told")
    height, width = size[:2]
    each = model.tiles(height, width, tasks, **cut)
    part = item.out.with_name(f".{item.out.stem}.part{item.out.suffix}")
    crf = CRF if quality is None else round(_CRF_OF[0] - _CRF_OF[1] * quality)
    rate = (
        stream["avg_frame_rate"] if _fraction(stream["avg_frame_rate"]) else stream["r_frame_rate"]
    )
    ffmpeg = [_program("ffmpeg"), "-v", "error", "-nostdin"]
    reader = [
        *ffmpeg,
        "-i",
        f"file:{item.source}",
        "-map",
        "0:v:0",
        "-fps_mode",
        "cfr",
        "-r",
        rate,
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    try:
        with _started(reader, stdout=subprocess.PIPE) as source:
            frames = _frames(source.process.stdout, height, width)
            for task in tasks:
                frames = _clipped(model.restore_all(frames, task, batch=batch, **cut))
            out: Any = None
            with contextlib.ExitStack() as stack:
                for frame in frames:
                    if out is None:
                        out = stack.enter_context(
                            _started(
                                _writer(ffmpeg, frame.shape, rate, crf, item.source, part),
                                stdin=subprocess.PIPE,
                            )
                        )
                    out.feed(to_uint8(frame).tobytes())
                    done(each)
                source.finish()
                if out is None:
                    raise VideoError("no frame in it")
                out.finish()
        part.replace(item.out)
    finally:
        part.unlink(missing_ok=True)


def _writer(
    ffmpeg: list[str], shape: tuple[int, ...], rate: str, crf: int, source: Path, part: Path
) -> list[str]:
    webm = part.suffix.lower() == ".webm"
    codec = (
        ["-c:v", "libvpx-vp9", "-b:v", "0"] if webm else ["-c:v", "libx264", "-preset", "medium"]
    )
    # Halved colours need even sides
    pixels = "yuv420p" if shape[0] % 2 == shape[1] % 2 == 0 else "yuv444p"
    return [
        *ffmpeg,
        "-y",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{shape[1]}x{shape[0]}",
        "-r",
        rate,
        "-i",
        "-",
        "-i",
        f"file:{source}",
        "-map",
        "0:v",
        "-map",
        "1:a?",
        *codec,
        "-crf",
        str(crf),
        "-pix_fmt",
        pixels,
        "-c:a",
        "copy",
        "-map_metadata",
        "1",
        "-metadata:s:v:0",
        "rotate=",
        f"file:{part}",
    ]


def _frames(stream: Any, height: int, width: int) -> Iterator[np.ndarray]:
    size = height * width * 3
    while len(data := stream.read(size)) == size:
        yield np.frombuffer(data, np.uint8).reshape(height, width, 3)


def _clipped(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    for frame in frames:
        yield np.clip(frame, 0, 255, out=frame)


class _Process:
    def __init__(self, process: subprocess.Popen[bytes], errors: Any):
        self.process, self._errors = process, errors

    def feed(self, data: bytes) -> None:
        try:
            self.process.stdin.write(data)  # type: ignore[union-attr]
        except BrokenPipeError:
            self.finish()
            raise VideoError("ffmpeg stopped taking frames") from None

    def finish(self) -> None:
        """Waits for its end; raises VideoError with its last words if it failed."""
        if self.process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        code = self.process.wait(timeout=600)
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace")
        if code:
            raise VideoError(f"ffmpeg: {_last(said)}")


@contextlib.contextmanager
def _started(command: list[str], **pipes: Any) -> Iterator[_Process]:
    # Not a pipe, which could fill and block
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
