"""The work of `ipt restore`: from the words on the command line to files."""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ipt_jax import errors
from ipt_jax.errors import DataError, UserError
from ipt_jax.images import channels
from ipt_jax.images.read import ImageFile, measure, read_image
from ipt_jax.images.write import Form, writing
from ipt_jax.messages import listed
from ipt_jax.restore import before_after as compare
from ipt_jax.restore import video
from ipt_jax.restore.plan import Item, plan
from ipt_jax.restore.restorer import Restorer
from ipt_jax.tasks import Task
from ipt_jax.weights.default import default_weights
from ipt_jax.weights.load import load

# Beyond this protocols that hold the whole picture (all but "blend") are refused: bytes of float32.
WHOLE = 4 << 30


def run(options: argparse.Namespace) -> int:
    """Restores all inputs; 0 if all were, 1 if some could not be or were left alone.

    Raises:
      UserError: wrong usage or input; nothing was written.
    """
    _check(options)
    items = plan(options.inputs, options.out, options.format)
    sheet = _sheet(options, items)
    left = [item for item in items if item.out.exists() and not options.overwrite]
    todo = [item for item in items if item not in left]
    if sheet is not None and sheet.exists() and not options.overwrite:
        raise UserError(f"--compare: {sheet} exists; --overwrite replaces it")
    names = [word.strip() for word in options.task.split(",")] if options.task else []
    failed: list[tuple[Path, str]] = []
    if todo:
        weights = options.weights or default_weights(_named(names))
        model = load(
            weights,
            task=options.weights_tasks,
            heads=options.heads,
            raw=options.raw,
            dtype=options.dtype,
        )
        try:
            work = _Work(options, model, model.chain(names or None))
        except ValueError as error:
            raise UserError(f"--task: {error}") from None
        failed = work.run(todo, sheet)
    done = len(todo) - len(failed)
    print(
        f"{done} restored"
        + (f" into {items[0].out if len(items) == 1 else _common(items)}" if done else "")
    )
    if left:
        print(
            f"{len(left)} exist already and were left alone; --overwrite replaces them: "
            f"{listed(str(i.out) for i in left)}"
        )
    if failed:
        print(f"{len(failed)} could not be restored:", file=sys.stderr)
        for path, reason in failed:
            print(f"  {path}: {reason}", file=sys.stderr)
    return 1 if failed or left else 0


def _check(options: argparse.Namespace) -> None:
    if options.quality is not None and not 1 <= options.quality <= 100:
        raise UserError(f"--quality {options.quality}: must be in 1..100")
    if options.batch < 1:
        raise UserError(f"--batch {options.batch}: must be 1 or more")
    if not options.max_megapixels > 0:
        raise UserError(f"--max-megapixels {options.max_megapixels:g}: must be above 0")


def _named(names: list[str]) -> list[str]:
    if not names:
        raise UserError(
            "name a task: --task sr2, --task denoise50, ... (or weights for one task, with "
            "--weights)"
        )
    return names


def _sheet(options: argparse.Namespace, items: list[Item]) -> Path | None:
    if not options.compare:
        return None
    first = items[0].out
    return (
        first.with_name(f"{first.stem}_compare.png")
        if len(items) == 1
        else _common(items) / "compare.png"
    )


def _common(items: list[Item]) -> Path:
    """The folder that all results are in."""
    return Path(os.path.commonpath([item.out.parent for item in items]))


class _Work:
    """What all files have in common: the model, its tasks, how they are used, the progress bar."""

    def __init__(self, options: argparse.Namespace, model: Restorer, tasks: list[Task]):
        self._options, self._model, self._tasks = options, model, [task.name for task in tasks]
        self._scale = math.prod(task.scale for task in tasks)
        self._cut: dict[str, Any] = dict(
            protocol=options.protocol, overlap=options.overlap, ensemble=options.ensemble
        )
        # Raises where protocol and overlap do not go together
        model.tiles(1, 1, self._tasks, **self._cut)
        self._max_pixels = round(options.max_megapixels * 1e6)
        self._crops: list[compare.Crop] = []

    def run(self, items: list[Item], sheet: Path | None) -> list[tuple[Path, str]]:
        """Restores all; returns what could not be, and why."""
        failed = []
        for folder in dict.fromkeys(item.out.parent for item in items):
            _writable(folder)
        sizes = [
            video.measure(item.source) if item.video else measure(item.source) for item in items
        ]
        tiles = [self._tiles(size) for size in sizes]
        with tqdm(
            total=sum(tiles),
            unit=" tiles",
            desc=",".join(self._tasks),
            file=sys.stderr,
            mininterval=0.1 if sys.stderr.isatty() else 10,
            smoothing=0.1,
        ) as bar:
            for item, count in zip(items, tiles, strict=True):
                before = bar.n
                try:
                    if item.video:
                        video.restore(
                            self._model,
                            item,
                            self._tasks,
                            self._cut,
                            self._options.batch,
                            self._options.quality,
                            bar.update,
                        )
                    else:
                        self._picture(item, sheet is not None, bar)
                except (ValueError, OSError, MemoryError, errors.VideoError) as error:
                    failed.append(
                        (
                            item.source,
                            "too little memory" if isinstance(error, MemoryError) else _said(error),
                        )
                    )
                    bar.write(f"{item.source}: failed", file=sys.stderr)
                    bar.update(before + count - bar.n)
        if sheet is not None and self._crops:
            compare.write(self._crops, ",".join(self._tasks), sheet)
        return failed

    def _tiles(self, size: tuple[int, ...] | None) -> int:
        if size is None or 0 in size or size[0] * size[1] > self._max_pixels:
            return 0
        frames = size[2] if len(size) > 2 else 1
        return frames * self._model.tiles(size[0], size[1], self._tasks, **self._cut)

    def _picture(self, item: Item, wanted: bool, bar: Any) -> None:
        try:
            picture = read_image(item.source, self._max_pixels)
        except DataError as error:
            hint = "; --max-megapixels raises it" if "limit" in str(error) else ""
            raise DataError(f"{error}{hint}") from None
        pixels, scale = picture.pixels, self._scale
        height, width, count = pixels.shape
        self._fits(height, width)
        form, lost = Form(
            item.format,
            height * scale,
            width * scale,
            count,
            8 * pixels.itemsize,
            picture.profile,
            picture.exif,
            self._options.quality,
        ).fitted()
        for note in (*picture.notes, *lost):
            bar.write(f"{item.source}: {note}", file=sys.stderr)
        crop = (
            compare.choose(item.source.name, pixels, scale)
            if wanted and len(self._crops) < compare.ROWS
            else None
        )
        row = 0
        with writing(item.out, form) as writer:
            for strip in self._strips(picture, bar):
                writer.write(strip)
                if crop is not None:
                    crop.take(row, strip)
                row += len(strip)
        if crop is not None:
            self._crops.append(crop)

    def _strips(self, picture: ImageFile, bar: Any) -> Any:
        pixels, scale, row = picture.pixels, self._scale, 0
        alpha = channels.alpha_of(pixels)
        for strip in self._model.restore_strips(
            lambda first, last: channels.colour(pixels[first:last]),
            pixels.shape[0],
            pixels.shape[1],
            self._tasks,
            batch=self._options.batch,
            done=bar.update,
            **self._cut,
        ):
            for first in range(
                0,
                len(strip),
                64,
                # A few rows at a time: turning them into what is written takes several copies
            ):
                part = strip[first : first + 64]
                big = (
                    None
                    if alpha is None
                    else channels.enlarged_rows(alpha, scale, row, row + len(part))
                )
                yield channels.like(part, pixels, big)
                row += len(part)

    def _fits(self, height: int, width: int) -> None:
        """Raises ValueError where the picture would have to be held whole and is too large for
        that.
        """
        need = height * width * self._scale**2 * 12 * (4 if not self._options.ensemble else 12)
        if self._options.protocol != "blend" and need > WHOLE:
            raise ValueError(
                f"protocol {self._options.protocol} holds the whole picture, {need / 2**30:.0f} GB "
                "here; use blend"
            )


def _writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"-o {folder}: cannot be made: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"-o {folder}: cannot be written to")


def _said(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
