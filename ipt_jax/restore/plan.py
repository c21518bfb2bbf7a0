"""What `ipt restore` is asked to do: files, folders and globs to pairs of input and output, before
anything is done.
"""

from __future__ import annotations

import dataclasses
import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ipt_jax.errors import UserError
from ipt_jax.images.formats import SUFFIXES, format_of
from ipt_jax.images.write import FORMATS
from ipt_jax.messages import listed, nearest

PICTURES = (*SUFFIXES, ".gif")
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
DEFAULT_OUT = "restored"


@dataclasses.dataclass(frozen=True)
class Item:
    """A file to restore, where the result goes, and in which format: one of `FORMATS`, or
    "video".
    """

    source: Path
    out: Path
    format: str

    @property
    def video(self) -> bool:
        return self.format == "video"


def is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEOS


def plan(inputs: Sequence[str], out: str | None, form: str | None) -> list[Item]:
    """The work, in the order of the inputs, each folder's files sorted.

    Folders keep their structure under `out`; files and what a glob finds go straight into it. `out`
    is a file where it has a picture's or a video's suffix and there is one input file. Two results
    of one name keep their inputs' suffixes, `a.jpg.png`.

    Raises:
      UserError: an input that is not there, a folder or glob without pictures, results that would
        take one another's place or an input's.
    """
    target = Path(out if out else DEFAULT_OUT).expanduser()
    named = (
        bool(out) and not target.is_dir() and (format_of(target) is not None or is_video(target))
    )
    found: list[tuple[Path, Path]] = []
    for word in inputs:
        found += _found(word, target)
    if named:
        if len(found) > 1 or not Path(inputs[0]).expanduser().is_file():
            raise UserError(
                f"-o {out} names one file, but there are {len(found)} results; name a folder"
            )
        source = found[0][0]
        kind = "video" if is_video(target) else format_of(target)
        if (kind == "video") != is_video(source):
            raise UserError(
                f"-o {out}: a video becomes a video, a picture a picture; {source} does not fit"
            )
        if form and kind not in (form, "video"):
            raise UserError(f"--format {form} and -o {out} do not go together; drop --format")
        items = [Item(source, target, str(kind))]
    else:
        items = _into(target, found, form or "png")
    for item in items:
        if item.out.exists() and item.out.resolve() in {other.source.resolve() for other in items}:
            raise UserError(
                f"{item.out}, an input, would be replaced by a result; name another folder with -o"
            )
    return items


def _found(word: str, target: Path) -> list[tuple[Path, Path]]:
    """(file, its path below the output folder) for one word of the command line."""
    path = Path(word).expanduser()
    if path.is_dir():
        inside = _pictures(path, target)
        if not inside:
            there = listed(sorted(f.name for f in path.iterdir()), 5) or "nothing"
            raise UserError(
                f"{word}: no pictures ({', '.join(PICTURES)}) in this folder; in it: {there}"
            )
        return [(path / name, name) for name in inside]
    if path.exists():
        return [(path, Path(path.name))]
    if glob.has_magic(word):
        hits = [Path(hit) for hit in sorted(glob.glob(str(path), recursive=True))]
        files = [
            hit for hit in hits if hit.is_file() and hit.suffix.lower() in (*PICTURES, *VIDEOS)
        ]
        if not files:
            raise UserError(
                f"{word}: no pictures match; {len(hits)} other files do"
                if hits
                else f"{word}: nothing matches"
            )
        return [(hit, Path(hit.name)) for hit in files]
    parent = path.parent
    hint = nearest(path.name, [f.name for f in parent.iterdir()]) if parent.is_dir() else ""
    raise UserError(f"{word}: there is no such file{hint}")


def _pictures(folder: Path, target: Path) -> list[Path]:
    """Pictures below a folder, sorted; without hidden ones, and without an output folder inside
    it.
    """
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


def _into(target: Path, found: list[tuple[Path, Path]], form: str) -> list[Item]:
    def out(name: Path, whole: bool) -> Path:
        suffix = ".mp4" if is_video(name) else FORMATS[form]
        return target / name.with_name((name.name if whole else name.stem) + suffix)

    # Also where a file system does not tell cases apart.
    count = Counter(str(out(name, False)).lower() for _, name in found)
    items = []
    for source, name in found:
        path = out(name, count[str(out(name, False)).lower()] > 1)
        items.append(Item(source, path, "video" if is_video(source) else form))
    twice = [
        key
        for key, number in Counter(str(item.out).lower() for item in items).items()
        if number > 1
    ]
    if twice:
        both = [str(item.source) for item in items if str(item.out).lower() == twice[0]]
        raise UserError(
            f"{' and '.join(both)} would both be written to one file; restore them into different "
            "folders"
        )
    return items
