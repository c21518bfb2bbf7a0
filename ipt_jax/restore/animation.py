"""Restores all frames of an animated GIF, WebP or PNG, and writes an animated PNG or WebP.

Frames are restored as a viewer shows them: composed on the complete canvas. Times and the number of
plays are kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ipt_jax.errors import DecodeError
from ipt_jax.images import decode, metadata
from ipt_jax.images.files import open_image_file
from ipt_jax.images.formats import PNG_SIGNATURE
from ipt_jax.images.read import PLUGINS, ImageFile, kind_of
from ipt_jax.images.write import QUALITY, Form, replacing, writing
from ipt_jax.messages import first_line
from ipt_jax.restore.restorer import Restorer
from ipt_jax.restore.tiling import Tiling

# The formats of results that hold an animation.
FORMATS = ("png", "webp")
# Formats of animated sources. The pages of a TIFF have no times.
_SOURCES = ("gif", "webp", "png")
# A WebP is written at once, from all of its frames with four bytes per pixel. Results that would
# need more bytes than this are refused.
WEBP_BYTES = 4 << 30
# A group of frames fills at least this many calls of the network.
_CALLS = 4


@dataclasses.dataclass(frozen=True)
class Animation:
    """An animated image.

    Attributes:
      path: its file.
      first: the file's number of the first frame: an animated PNG may begin with an image for
        viewers without animation.
      durations: how long each frame is shown, in milliseconds.
      plays: how often the animation is played; 0 is for ever.
      turned: EXIF orientation of the frames, 1..8.
      grey, alpha: whether all frames are grey, and whether one of them is transparent.
    """

    path: Path
    first: int
    durations: list[Fraction]
    plays: int
    turned: int
    grey: bool
    alpha: bool

    def __len__(self) -> int:
        return len(self.durations)

    def frames(self) -> Iterator[np.ndarray]:
        """Yields the frames, uint8 `[H, W, C]`, upright; C as in :class:`ImageFile`."""
        channels = ([0] if self.grey else [0, 1, 2]) + ([3] if self.alpha else [])
        with _opened(self.path) as image:
            for number in range(self.first, self.first + len(self)):
                pixels = decode.orient(_pixels(image, number), self.turned)
                yield np.ascontiguousarray(pixels[..., channels])


def count_frames(path: Path) -> int:
    """Returns the number of frames of an animation; 1 for other files."""
    try:
        with _opened(path) as image:
            if image is None:
                return 1
            return max(1, image.n_frames - bool(getattr(image, "default_image", False)))
    # Pillow raises exceptions of nearly any type for crafted input.
    except Exception:
        return 1


def read_animation(path: Path, picture: ImageFile) -> Animation | None:
    """Reads what is needed to restore an animation. All frames are decoded once.

    Args:
      path: the file.
      picture: what `read_image` returns for the file.

    Returns:
      The animation; None for a file with one frame, or with 16 bits, which Pillow cannot animate.

    Raises:
      DecodeError: a frame cannot be decoded.
    """
    if picture.pixels.dtype != np.uint8 or count_frames(path) < 2:
        return None
    with _opened(path) as image:
        first = int(bool(getattr(image, "default_image", False)))
        durations, grey, alpha = [], picture.pixels.shape[2] < 3, False
        for number in range(first, image.n_frames):
            pixels = _pixels(image, number)
            durations.append(Fraction(image.info.get("duration") or 0).limit_denominator(1000))
            grey = grey and bool((pixels[..., :1] == pixels[..., :3]).all())
            alpha = alpha or bool((pixels[..., 3] < 255).any())
        plays = image.info.get("loop")
        if image.format == "GIF":
            # A GIF counts repetitions, and is played once without a count.
            plays = 1 if plays is None else plays + 1 if plays else 0
        turned = int(image.getexif().get(metadata.ORIENTATION, 1))
        return Animation(path, first, durations, int(plays or 0), turned, grey, alpha)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Opens an image file with Pillow; gives None for a format without animation."""
    with open_image_file(path) as file:
        kind = kind_of(file.read(12))
        file.seek(0)
        if kind not in _SOURCES:
            yield None
            return
        with PLUGINS[kind](file) as image:
            yield image


def _pixels(image: Any, number: int) -> np.ndarray:
    """Returns a frame, uint8 `[H, W, 4]`; raises DecodeError if it cannot be decoded."""
    try:
        image.seek(number)
        return np.asarray(image.convert("RGBA"))
    except MemoryError:
        raise
    except Exception as error:
        raise DecodeError(f"cannot decode frame {number + 1}: {first_line(error)}") from error


def restore_frames(
    model: Restorer,
    frames: Iterator[np.ndarray],
    tasks: list[str],
    *,
    tiling: Tiling,
    batch: int,
    done: Callable[[int], Any],
) -> Iterator[np.ndarray]:
    """Restores frames of one size; tiles of several frames share a call.

    Args:
      model: the model.
      frames: uint8 `[H, W, C]`.
      tasks: tasks that are applied one after the other.
      tiling: how frames are cut into tiles.
      batch: tiles per call and device.
      done: called with the number of tiles of each finished frame.

    Yields:
      uint8 `[H * scale, W * scale, C]` for each frame, in order.
    """
    first = next(frames)
    height, width = first.shape[:2]
    tiles = model.tiles(height, width, tasks, **tiling)
    size = -(-_CALLS * batch * model.devices // tiles)
    frames = itertools.chain([first], frames)
    while group := list(itertools.islice(frames, size)):
        for frame in model.restore(group, tasks, batch=batch, **tiling):
            done(tiles)
            yield frame


def write_animation(
    path: Path, form: Form, animation: Animation, frames: Iterator[np.ndarray]
) -> None:
    """Writes an animated PNG or WebP. The file appears under its name when it is complete.

    Args:
      path: the file.
      form: what to write, as returned by `Form.fitted`; its format is one of `FORMATS`.
      animation: gives the times and the number of plays.
      frames: uint8 `[form.height, form.width, form.channels]`.

    Raises:
      ValueError: a WebP would need too much memory.
      OSError: the file cannot be written.
    """
    with replacing(path) as file:
        if form.format == "png":
            _write_png(file, form, animation, frames)
        else:
            _write_webp(file, form, animation, frames)


def _write_png(
    file: BinaryIO, form: Form, animation: Animation, frames: Iterator[np.ndarray]
) -> None:
    """Writes an animated PNG (W3C PNG, 3rd edition, section 4.9), one frame in memory."""
    file.write(PNG_SIGNATURE)
    numbers = itertools.count()
    with tempfile.TemporaryDirectory() as folder:
        for index, (frame, duration) in enumerate(zip(frames, animation.durations, strict=True)):
            still = Path(folder) / "frame.png"
            # Metadata belong to the file, so the first frame's are enough.
            plain = dataclasses.replace(form, held=metadata.NONE, origin=None) if index else form
            with writing(still, plain) as writer:
                writer.write(frame)
            control = struct.pack(
                ">IIIIIHHBB",
                next(numbers),
                *(form.width, form.height, 0, 0),
                *_delay(duration),
                # Each frame replaces the complete canvas.
                *(0, 0),
            )
            started = False
            for kind, body in _chunks(still.read_bytes()):
                if kind == b"IDAT":
                    if not started:
                        if not index:
                            plays = struct.pack(">II", len(animation), animation.plays)
                            _write_chunk(file, b"acTL", plays)
                        _write_chunk(file, b"fcTL", control)
                        started = True
                    if index:
                        kind, body = b"fdAT", struct.pack(">I", next(numbers)) + body
                    _write_chunk(file, kind, body)
                elif not index and kind != b"IEND":
                    _write_chunk(file, kind, body)
    _write_chunk(file, b"IEND", b"")


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields type and content of each chunk of a PNG."""
    at = len(PNG_SIGNATURE)
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += length + 12


def _write_chunk(file: BinaryIO, kind: bytes, body: bytes) -> None:
    file.write(struct.pack(">I", len(body)) + kind + body)
    file.write(struct.pack(">I", zlib.crc32(body, zlib.crc32(kind))))


def _delay(milliseconds: Fraction) -> tuple[int, int]:
    """Returns a duration as numerator and denominator of seconds, each of at most 16 bits."""
    seconds = milliseconds / 1000
    largest = 65535
    seconds = min(seconds, Fraction(largest))
    short = seconds.limit_denominator(int(largest / max(seconds, Fraction(1))))
    return short.numerator, short.denominator


def _write_webp(
    file: BinaryIO, form: Form, animation: Animation, frames: Iterator[np.ndarray]
) -> None:
    """Writes an animated WebP with Pillow, from all frames in memory."""
    need = len(animation) * form.height * form.width * 4
    if need > WEBP_BYTES:
        raise ValueError(
            f"an animated WebP is written from all frames in memory, here {need / 2**30:.0f} GB; "
            "use --format png"
        )
    mode = "RGB" if form.channels in (1, 3) else "RGBA"
    images = []
    for frame in frames:
        colour = frame[..., [0, 0, 0, *range(1, form.channels)]] if form.channels < 3 else frame
        images.append(Image.fromarray(colour, mode=mode))
    times = [round(time) for time in itertools.accumulate(animation.durations, initial=Fraction(0))]
    form = form.resized()
    exif = form.exif_block()
    quality = QUALITY["webp"] if form.quality is None else form.quality
    stream = io.BytesIO()
    images[0].save(
        stream,
        "webp",
        save_all=True,
        append_images=images[1:],
        duration=[after - before for before, after in itertools.pairwise(times)],
        loop=animation.plays,
        quality=quality,
        lossless=quality == 100,
        exact=True,
        method=4,
        icc_profile=form.held.profile or b"",
        exif=b"Exif\0\0" + exif if exif else b"",
        xmp=form.held.xmp,
    )
    file.write(stream.getbuffer())
