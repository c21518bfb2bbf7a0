"""Which files `ipt restore` reads and writes.

Files, folders and globs become pairs of input and output. The plan is complete and
checked before the first file is written.
"""

from __future__ import annotations

import dataclasses
import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ipt_jax.data.files import find_files
from ipt_jax.errors import UserError
from ipt_jax.images.formats import SUFFIXES, describe_left_out, format_of
from ipt_jax.images.origin import Origin
from ipt_jax.images.read import read_origin
from ipt_jax.images.write import FORMATS, fitted_name
from ipt_jax.log import logger
from ipt_jax.messages import listed, nearest
from ipt_jax.shards import Shard, mask

PICTURES = (*SUFFIXES, ".gif")
# Containers of results.
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
# Containers that are only read.
OTHER_VIDEOS = (".wmv", ".asf", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp", ".flv", ".ogv")
# Suffixes of files that are not written; a folder of such a name is hardly meant.
UNWRITTEN = (
    *(".gif", ".apng", ".avif", ".heic", ".heif", ".jxl", ".jp2", ".psd"),
    *(".svg", ".pdf", ".ppm", ".pgm", ".pnm", ".exr", ".hdr", ".ico"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".txt", ".json"),
    *(".zip",),
)
DEFAULT_OUT = "restored"


@dataclasses.dataclass(frozen=True)
class Job:
    """A file to restore.

    Attributes:
      source: the file to read.
      out: the file to write.
      format: the format of the result, one of `FORMATS` or "video".
      origin: what the result records about its source and tasks.
      title: what the user calls the source, where that is not its path.
      name_inside: path of the source relative to the folder that the user gave; it decides on the
        job's shard.
    """

    source: Path
    out: Path
    format: str
    origin: Origin | None = None
    title: str = ""
    name_inside: Path = Path()

    @property
    def video(self) -> bool:
        """Whether the file is a video."""
        return self.format == "video"

    @property
    def name(self) -> str:
        """The source in messages."""
        return self.title or str(self.source)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The files of a run.

    Attributes:
      jobs: the jobs, with the first choice of a name for each result.
      fixed: whether the user has named the only result.
      left_out: files in folders and globs that are results of earlier runs.
    """

    jobs: list[Job]
    fixed: bool
    left_out: list[Path]


def is_video(path: Path) -> bool:
    """Returns whether the suffix is a video's."""
    return path.suffix.lower() in (*VIDEOS, *OTHER_VIDEOS)


def plan_jobs(inputs: Sequence[str], out: str | None, form: str | None) -> Plan:
    """Returns the jobs in the order of the inputs, with the files of each folder sorted.

    A folder keeps its structure below `out`. Files, and files that a glob finds, go directly into
    `out`. With one input file, `out` may name the result itself, by a suffix of an image or of a
    video. Where two results would have the same name, both keep the suffix of their input:
    `a.jpg.png`. Files in folders and globs that are results of earlier runs are left out, if their
    sources are in these folders, too. A result that is named is restored like any other file.

    Args:
      inputs: files, folders and globs.
      out: a folder or a file; None for `DEFAULT_OUT`.
      form: the format of the results, one of `FORMATS`; None for the suffix of `out`, or PNG.

    Raises:
      UserError: an input does not exist, a folder or glob has no images, or a result would replace
        another result or an input.
    """
    target = Path(out if out else DEFAULT_OUT).expanduser()
    names_file = (
        bool(out) and not target.is_dir() and (format_of(target) is not None or is_video(target))
    )
    suffix = target.suffix.lower()
    if (
        out
        and not names_file
        and not target.is_dir()
        and suffix in UNWRITTEN
        and not out.endswith(os.sep)
    ):
        raise UserError(
            f"-o {out}: {suffix} files are not written; results are {', '.join(FORMATS)} or videos "
            f"({', '.join(VIDEOS)}). To make a folder of this name, write -o {out}/"
        )
    found: list[tuple[Path, Path]] = []
    left_out: list[Path] = []
    for word in inputs:
        files = _find_files(word, target)
        results = _results_among(word, files)
        if files and len(results) == len(files):
            raise UserError(
                f"{word}: {len(files)} files are results of earlier runs and are left out, and "
                "there are no others; name the files to restore them again"
            )
        left_out += [path for path, _ in files if path in results]
        found += [pair for pair in files if pair[0] not in results]
    if not names_file:
        return Plan(_jobs_into(target, found, form or "png"), False, left_out)
    if len(found) > 1 or not Path(inputs[0]).expanduser().is_file():
        raise UserError(
            f"-o {out} names one file, but there are {len(found)} results; name a folder"
        )
    job = _single_job(found[0][0], target, form)
    if job.out.exists() and job.out.resolve() == job.source.resolve():
        raise UserError(
            f"{job.out}, an input, would be replaced by a result; name another folder with -o"
        )
    return Plan([job], True, left_out)


def _results_among(word: str, files: list[tuple[Path, Path]]) -> set[Path]:
    """Returns the files of a folder or glob that are results of sources in the same folders."""
    folder = Path(word).expanduser()
    if folder.is_file():
        return set()
    results = set()
    for path, _ in files:
        origin = read_origin(path)
        if origin is None:
            continue
        source = Path(os.path.normpath(path.parent.resolve() / origin.source))
        home = folder.resolve() if folder.is_dir() else path.parent.resolve()
        if source.is_relative_to(home):
            results.add(path)
    return results


def _single_job(source: Path, target: Path, form: str | None) -> Job:
    """Returns the job for one file whose result is named."""
    kind = "video" if is_video(target) else format_of(target)
    if target.suffix.lower() in OTHER_VIDEOS:
        raise UserError(f"-o {target}: videos are written as {', '.join(VIDEOS)}")
    if (kind == "video") != is_video(source):
        raise UserError(
            f"-o {target}: a video is restored to a video and an image to an image; {source} does "
            "not fit"
        )
    if form and kind not in (form, "video"):
        raise UserError(f"--format {form} and -o {target} do not go together; omit --format")
    return Job(source, target, str(kind))


def _find_files(word: str, target: Path) -> list[tuple[Path, Path]]:
    """Returns pairs of a file and its path below the output folder, for one input."""
    path = Path(word).expanduser()
    if path.is_dir():
        inside = _images_below(path, target)
        if not inside:
            content = listed(sorted(f.name for f in path.iterdir()), 5) or "nothing"
            raise UserError(
                f"{word}: no images ({', '.join(PICTURES)}) in this folder; it contains: {content}"
            )
        _warn_of_others(path, target)
        return [(path / name, name) for name in inside]
    if path.exists():
        return [(path, Path(path.name))]
    if glob.has_magic(word):
        return _find_glob(word)
    parent = path.parent
    hint = nearest(path.name, [f.name for f in parent.iterdir()]) if parent.is_dir() else ""
    raise UserError(f"{word}: there is no such file{hint}")


def _find_glob(word: str) -> list[tuple[Path, Path]]:
    hits = [Path(hit) for hit in sorted(glob.glob(str(Path(word).expanduser()), recursive=True))]
    files = [
        hit for hit in hits if hit.is_file() and (hit.suffix.lower() in PICTURES or is_video(hit))
    ]
    if not hits:
        raise UserError(f"{word}: nothing matches")
    if not files:
        raise UserError(f"{word}: no images match; {len(hits)} other files do")
    return [(hit, Path(hit.name)) for hit in files]


def _images_below(folder: Path, target: Path) -> list[Path]:
    """Returns the images below a folder, sorted, except hidden ones and those below `target`."""
    names, visited, own = [], set(), target.resolve()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = Path(parent).resolve()
        if real in visited or (real == own and own != folder.resolve()):
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names += [
            Path(parent, name).relative_to(folder)
            for name in files
            if not name.startswith(".") and name.lower().endswith(PICTURES)
        ]
    return sorted(names)


def _warn_of_others(folder: Path, target: Path) -> None:
    """Logs which files of a folder are left out because of their suffix."""
    own = target.resolve()
    others = [
        name
        for name in find_files(folder).others
        if not name.lower().endswith(PICTURES) and own not in (folder / name).resolve().parents
    ]
    if left_out := describe_left_out(others):
        logger.warning("%s: %s", folder, left_out)


def _jobs_into(target: Path, found: list[tuple[Path, Path]], form: str) -> list[Job]:
    """Returns the jobs whose results go into a folder."""

    def out(name: Path, keep_suffix: bool) -> Path:
        suffix = ".mp4" if is_video(name) else FORMATS[form]
        stem = name.name if keep_suffix else name.stem
        return target / name.with_name(fitted_name(stem, suffix))

    # Names are compared in lower case, because some file systems do not distinguish cases.
    count = Counter(str(out(name, False)).lower() for _, name in found)
    jobs = []
    for source, name in found:
        path = out(name, count[str(out(name, False)).lower()] > 1)
        kind = "video" if is_video(source) else form
        jobs.append(Job(source, path, kind, name_inside=name))
    # Names that differ only in case, such as a.png and A.PNG, get different names later.
    repeated = [path for path, number in Counter(job.out for job in jobs).items() if number > 1]
    if repeated:
        sources = [str(job.source) for job in jobs if job.out == repeated[0]]
        raise UserError(
            f"{' and '.join(sources)} would both be written to one file; restore them into "
            "different folders"
        )
    return jobs


def split_jobs(jobs: Sequence[Job], shard: Shard) -> tuple[list[Job], list[Job]]:
    """Returns the jobs of a shard, and those of all other shards.

    The shards are disjoint and complete, and depend neither on the machine nor on the order of the
    jobs. Jobs whose results have names that differ only in case go to the same shard, because on
    some file systems these names are one file.
    """
    own = mask(shard, [job.name_inside for job in jobs], (str(job.out).lower() for job in jobs))
    mine = [job for job, its in zip(jobs, own, strict=True) if its]
    return mine, [job for job, its in zip(jobs, own, strict=True) if not its]
