"""Restores image and video files, and collects the errors of those that cannot be restored."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from etils import epath
from tqdm import tqdm

from ipt_jax import messages
from ipt_jax.data.files import DANGLING, is_dangling
from ipt_jax.errors import DataError, RunError, UserError
from ipt_jax.images import channels
from ipt_jax.images.read import ImageFile, measure, read_image
from ipt_jax.images.write import Form, fitted_name, write_sidecar, writing
from ipt_jax.messages import first_line, printable
from ipt_jax.restore import animation, before_after
from ipt_jax.restore.pipes import Pipes
from ipt_jax.restore.plan import DEFAULT_OUT, Job, plan_jobs, split_jobs
from ipt_jax.restore.restorer import BATCH, Restorer
from ipt_jax.restore.results import place_results
from ipt_jax.restore.tiling import OVERLAP, Tiling
from ipt_jax.restore.video import restore_video
from ipt_jax.restore.video_info import measure_video
from ipt_jax.shards import Shard
from ipt_jax.storage import replace_text
from ipt_jax.tasks import Task

# Protocols other than "blend" hold the complete image as float32. Images that would need more bytes
# than this are refused.
WHOLE_IMAGE_BYTES = 4 << 30


@dataclasses.dataclass(frozen=True)
class FileSettings:
    """How files are restored.

    Attributes:
      tasks: tasks that are applied one after the other; empty for the only task of the weights.
      out: the output file or folder; "-" for standard output; None for the default folder, or for
        standard output where the only input is standard input.
      format: format of the results; None for the suffix of `out`, or PNG.
      quality: 1..100 for JPEG, WebP and video; None for the default of the format.
      background: the colour with which alpha is blended in formats without alpha, or None.
      overwrite: whether existing results are replaced.
      compare: whether a sheet with crops before and after is written.
      tiling: how images are cut into tiles.
      batch: tiles per call and device.
      max_megapixels: larger inputs are refused.
      shard: the part of the files that is restored; None for all.
    """

    tasks: Sequence[str] = ()
    out: str | None = None
    format: str | None = None
    quality: int | None = None
    background: tuple[int, int, int] | None = None
    overwrite: bool = False
    compare: bool = False
    tiling: Tiling = dataclasses.field(
        default_factory=lambda: Tiling(protocol="blend", overlap=OVERLAP, ensemble=False)
    )
    batch: int = BATCH
    max_megapixels: float = 500
    shard: Shard | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What `restore_files` did.

    Attributes:
      results: the results that were written.
      done: results of the same sources and tasks that were there and were left alone.
      blocked: files that were left alone, and what they are.
      failed: sources that could not be restored, with the reasons.
      left_out: files in folders and globs that are results of earlier runs.
      elsewhere: the number of files that belong to other shards.
      failures: the file that lists what is not restored; None without a shard or such files.
    """

    results: list[Path]
    done: list[Path]
    blocked: list[tuple[Path, str]]
    failed: list[tuple[str, str]]
    left_out: list[Path]
    elsewhere: int = 0
    failures: Path | None = None

    @property
    def place(self) -> Path:
        """The only result, or the folder that contains all results."""
        return self.results[0] if len(self.results) == 1 else _common_folder(self.results)


def restore_files(
    inputs: Sequence[str], load: Callable[[], Restorer], settings: FileSettings
) -> Outcome:
    """Restores files.

    A file that cannot be restored does not stop the others.

    Args:
      inputs: files, folders and globs; "-" for standard input.
      load: gives the model; it is called only when there is something to restore, or when the
        weights decide on the task.
      settings: how the files are restored.

    Raises:
      UserError: wrong usage or input; nothing was written.
    """
    _check_shard(inputs, settings)
    with Pipes(inputs, settings.out, settings.format) as pipes:
        plan = plan_jobs(pipes.inputs, pipes.out, settings.format)
        jobs, elsewhere = plan.jobs, list[Job]()
        if settings.shard is not None:
            if plan.fixed:
                raise UserError(f"--shard needs a folder for the results; -o {settings.out} is not")
            jobs, elsewhere = split_jobs(jobs, settings.shard)
        load = functools.cache(load)
        tasks = list(settings.tasks) or [task.name for task in _chain(load(), settings)]
        placed = place_results(
            pipes.named(jobs),
            tasks,
            overwrite=settings.overwrite,
            fixed=plan.fixed,
            elsewhere=elsewhere,
        )
        everything = [*placed.todo, *placed.done, *(job for job, _ in placed.blocked)]
        sheet = _sheet_path([job.out for job in everything]) if settings.compare else None
        if sheet is not None and sheet.exists() and not settings.overwrite:
            raise UserError(f"--compare: {sheet} exists; --overwrite replaces it")
        failed: list[tuple[Job, str]] = []
        if placed.todo:
            restorer = _FileRestorer(load(), settings)
            for note in placed.notes:
                messages.say_error(note)
            failed = restorer.restore(placed.todo, sheet)
        failures = {job for job, _ in failed}
        results = [job.out for job in placed.todo if job not in failures]
        pipes.deliver(results)
        listing = None
        if settings.shard is not None:
            reasons = [(str(job.source), reason) for job, reason in failed]
            reasons += [(str(job.source), f"{job.out}: {why}") for job, why in placed.blocked]
            listing = _list_failures(settings.out, settings.shard, reasons)
        return Outcome(
            results,
            [job.out for job in placed.done],
            [(job.out, why) for job, why in placed.blocked],
            [(job.name, reason) for job, reason in failed],
            plan.left_out,
            len(elsewhere),
            listing,
        )


def _check_shard(inputs: Sequence[str], settings: FileSettings) -> None:
    """Raises UserError for what cannot be divided into shards."""
    if settings.shard is None:
        return
    if "-" in (*inputs, settings.out):
        raise UserError("--shard divides files in folders; - is one image")
    if settings.compare:
        raise UserError("--shard and --compare do not go together: there is one sheet for all")


def _list_failures(out: str | None, shard: Shard, reasons: list[tuple[str, str]]) -> Path | None:
    """Writes what a shard could not restore into the output folder, or removes an older list.

    Returns:
      The file, `failed-I-of-N.jsonl` with an object `{"source", "reason"}` per line; None if
      nothing failed.
    """
    path = Path(out or DEFAULT_OUT).expanduser() / f"failed-{shard.label}.jsonl"
    if not reasons:
        path.unlink(missing_ok=True)
        return None
    _make_folder(path.parent)
    lines = (json.dumps({"source": source, "reason": reason}) for source, reason in reasons)
    replace_text(epath.Path(path), "".join(f"{line}\n" for line in lines))
    return path


def _chain(model: Restorer, settings: FileSettings) -> list[Task]:
    try:
        return model.chain(settings.tasks or None)
    except ValueError as error:
        raise UserError(f"--task: {error}") from None


def _sheet_path(results: list[Path]) -> Path:
    if len(results) == 1:
        return results[0].with_name(fitted_name(results[0].stem, "_compare.png"))
    return _common_folder(results) / "compare.png"


def _common_folder(results: list[Path]) -> Path:
    """Returns the innermost folder that contains all results."""
    return Path(os.path.commonpath([path.parent for path in results]))


class _FileRestorer:
    """The model, its tasks and the settings, which are the same for all files."""

    def __init__(self, model: Restorer, settings: FileSettings):
        tasks = _chain(model, settings)
        self._settings, self._model = settings, model
        self._tasks = [task.name for task in tasks]
        self._scale = math.prod(task.scale for task in tasks)
        try:
            model.tiles(1, 1, self._tasks, **settings.tiling)
        except ValueError as error:
            raise UserError(f"--overlap: {error}") from None
        self._max_pixels = round(settings.max_megapixels * 1e6)
        self._crops: list[before_after.Crop] = []

    def restore(self, jobs: list[Job], sheet: Path | None) -> list[tuple[Job, str]]:
        """Restores all files; returns those that could not be restored, with the reasons."""
        failed: list[tuple[Job, str]] = []
        for folder in dict.fromkeys(job.out.parent for job in jobs):
            _make_folder(folder)
        tiles = [self._count_tiles(job) for job in jobs]
        with tqdm(
            total=sum(tiles),
            unit=" tiles",
            desc=",".join(self._tasks),
            file=messages.stderr(),
            mininterval=0.1 if messages.stderr().isatty() else 10,
            smoothing=0.1,
        ) as bar:
            for job, count in zip(jobs, tiles, strict=True):
                before = bar.n
                try:
                    if job.video:
                        self._restore_video(job, bar)
                    else:
                        self._restore_image(job, sheet is not None, bar)
                # Whatever a file raises, the others are restored.
                except Exception as error:
                    failed.append((job, _reason(error)))
                    bar.write(f"{printable(job.name)}: failed", file=messages.stderr())
                    bar.update(before + count - bar.n)
        if sheet is not None and self._crops:
            before_after.write_sheet(self._crops, ",".join(self._tasks), sheet)
        return failed

    def _count_tiles(self, job: Job) -> int:
        """Returns the tiles that a file takes; 0 where its size is unknown or too large."""
        size: tuple[int, ...] | None = (
            measure_video(job.source) if job.video else measure(job.source)
        )
        if size is None or 0 in size or size[0] * size[1] > self._max_pixels:
            return 0
        if job.video:
            frames = size[2]
        else:
            frames = animation.count_frames(job.source) if job.format in animation.FORMATS else 1
        return frames * self._model.tiles(size[0], size[1], self._tasks, **self._settings.tiling)

    def _restore_video(self, job: Job, bar: Any) -> None:
        restore_video(
            self._model,
            job,
            self._tasks,
            tiling=self._settings.tiling,
            batch=self._settings.batch,
            quality=self._settings.quality,
            done=bar.update,
            say=lambda note: bar.write(f"{printable(job.name)}: {note}", file=messages.stderr()),
        )
        if job.origin is not None:
            write_sidecar(job.out, job.out.stat().st_size, job.origin)

    def _restore_image(self, job: Job, on_sheet: bool, bar: Any) -> None:
        try:
            picture = read_image(job.source, self._max_pixels)
        except DataError as error:
            hint = "; --max-megapixels raises it" if "limit" in str(error) else ""
            raise DataError(f"{error}{hint}") from None
        moving = animation.read_animation(job.source, picture)
        if moving and job.format in animation.FORMATS:
            self._restore_animation(job, picture, moving, on_sheet, bar)
            return
        if moving:
            bar.write(
                f"{printable(job.name)}: {job.format} cannot hold an animation; --format png or "
                "webp keeps all frames",
                file=messages.stderr(),
            )
        # Only the copy without colours under transparency is kept.
        picture = dataclasses.replace(
            picture, pixels=channels.fill_transparent(picture.pixels, self._model.model.tile)
        )
        pixels, scale = picture.pixels, self._scale
        height, width, count = pixels.shape
        self._check_memory(height, width)
        form, lost = Form(
            job.format,
            height * scale,
            width * scale,
            count,
            8 * pixels.itemsize,
            picture.held,
            self._settings.quality,
            self._settings.background,
            job.origin,
        ).fitted()
        for note in (*picture.notes, *lost):
            bar.write(f"{printable(job.name)}: {note}", file=messages.stderr())
        crop = None
        if on_sheet and len(self._crops) < before_after.ROWS:
            crop = before_after.choose_crop(job.source.name, pixels, scale)
        row = 0
        with writing(job.out, form) as writer:
            for strip in self._model.restore_rows(
                pixels,
                self._tasks,
                batch=self._settings.batch,
                done=bar.update,
                **self._settings.tiling,
            ):
                writer.write(strip)
                if crop is not None:
                    crop.add_strip(row, strip)
                row += len(strip)
        if crop is not None:
            self._crops.append(crop)

    def _restore_animation(
        self,
        job: Job,
        picture: ImageFile,
        moving: animation.Animation,
        on_sheet: bool,
        bar: Any,
    ) -> None:
        """Restores all frames of an animation into one file."""
        height, width = picture.pixels.shape[:2]
        self._check_memory(height, width)
        form, lost = Form(
            job.format,
            height * self._scale,
            width * self._scale,
            (1 if moving.grey else 3) + moving.alpha,
            held=picture.held,
            quality=self._settings.quality,
            origin=job.origin,
        ).fitted()
        # All frames are kept, so the remark that only the first was read does not hold.
        notes = [note for note in picture.notes if not note.startswith("the first of")]
        for note in (*notes, *lost):
            bar.write(f"{printable(job.name)}: {note}", file=messages.stderr())
        frames = animation.restore_frames(
            self._model,
            moving.frames(),
            self._tasks,
            tiling=self._settings.tiling,
            batch=self._settings.batch,
            done=bar.update,
        )
        if on_sheet and len(self._crops) < before_after.ROWS:
            crop = before_after.choose_crop(job.source.name, picture.pixels, self._scale)
            first = next(frames)
            crop.add_strip(0, first)
            frames = itertools.chain([first], frames)
            self._crops.append(crop)
        animation.write_animation(job.out, form, moving, frames)

    def _check_memory(self, height: int, width: int) -> None:
        """Raises ValueError where the protocol would hold more than `WHOLE_IMAGE_BYTES`."""
        protocol, ensemble = (self._settings.tiling[key] for key in ("protocol", "ensemble"))
        need = height * width * self._scale**2 * 12 * (12 if ensemble else 4)
        if protocol != "blend" and need > WHOLE_IMAGE_BYTES:
            raise ValueError(
                f"protocol {protocol} holds the complete image in memory, here "
                f"{need / 2**30:.0f} GB; use --protocol blend"
            )


def _make_folder(folder: Path) -> None:
    """Makes an output folder; raises UserError if nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"-o {folder}: the folder cannot be made: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"-o {folder}: there is no permission to write into this folder")


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    if isinstance(error, OSError) and error.filename and is_dangling(error.filename):
        return DANGLING
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, (ValueError, OSError, RunError)):
        return str(error) or type(error).__name__
    # An error that was not foreseen: its type says more than its text.
    return f"{type(error).__name__}: {first_line(error)}"
