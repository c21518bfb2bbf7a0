"""Builds ImageNet-2012 as an array_record set (`ipt data prepare imagenet2012`).

TFDS's own builder does the work. This module checks the two archives before it and samples the
result after it.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ipt_jax.data.prepare.inspect import check_source
from ipt_jax.data.sources.tfds import Tfds
from ipt_jax.errors import DataError
from ipt_jax.messages import first_line, listed, printable
from ipt_jax.versions import install

NAME = "imagenet2012"
# Split -> (name of the archive, pattern of its members' names, number of members).
ARCHIVES = {
    "train": ("ILSVRC2012_img_train.tar", re.compile(r"n\d{8}\.tar"), 1_000),
    "validation": ("ILSVRC2012_img_val.tar", re.compile(r"ILSVRC2012_val_\d{8}\.JPEG"), 50_000),
}
# Images of each split that are decoded after it is built.
SAMPLE = 1_000
# Bytes of a tar file's block.
_BLOCK = 512


class BuildReport(NamedTuple):
    """The result of building or finding the set.

    Attributes:
      lines: for the user.
      unreadable: how many of the sampled images cannot be read.
    """

    lines: list[str]
    unreadable: int


class Subset:
    """About `count` evenly spaced images of a source."""

    def __init__(self, source: Tfds, count: int):
        self._source, self._step = source, max(1, len(source) // count)

    def __len__(self) -> int:
        return -(-len(self._source) // self._step)

    def __getitem__(self, i: int) -> bytes:
        return self._source[i * self._step]

    def name(self, i: int) -> str:
        return self._source.name(i * self._step)


def prepare(manual_dir: str, data_dir: str, splits: Sequence[str]) -> BuildReport:
    """Builds the set unless it exists, and decodes a sample of it.

    TFDS builds in a temporary folder and renames it at the end. A set that exists is therefore
    complete, and after an interruption the build starts again.

    Args:
      manual_dir: the local folder of the archives.
      data_dir: TFDS's data_dir; local or gs://.
      splits: keys of `ARCHIVES`.

    Raises:
      DataError: an archive is missing, misnamed or truncated, TensorFlow is missing, or the set
        exists without one of the splits.
      OSError: building failed.
    """
    lines = []
    try:
        sources = [Tfds(NAME, split, data_dir) for split in splits]
        lines.append(f"{NAME} is in {data_dir} already; nothing to build")
    except DataError as missing:
        if "has no split" in str(missing):
            raise DataError(
                f"{NAME} in {data_dir} was built without one of the splits that you ask for "
                f"({missing}); TFDS does not add splits to a set: remove the set, or build into "
                "another --data-dir"
            ) from None
        folder = pathlib.Path(manual_dir).expanduser()
        warnings = [warning for split in splits for warning in check_archive(folder, split)]
        lines += warnings
        _build(folder, data_dir, splits)
        lines += [
            f"note: an interrupted build left {left}, which can be removed"
            for left in _unfinished(data_dir)
        ]
        sources = [Tfds(NAME, split, data_dir) for split in splits]
    unreadable = 0
    for split, source in zip(splits, sources, strict=True):
        found = check_source(Subset(source, SAMPLE))
        unreadable += len(found["unreadable"])
        lines.append(
            f"{split}: {len(source)} images; {found['pictures']} of them decoded, "
            f"{len(found['unreadable'])} of these unreadable"
        )
        lines += [f"  {printable(name)}: {fault}" for name, fault in found["unreadable"].items()]
    lines.append(f"to decode all: ipt data check {NAME} --data-dir {data_dir} --split {splits[0]}")
    lines.append(f"to train on it: --config.data.source=tfds --config.data.dir={data_dir}")
    return BuildReport(lines, unreadable)


def check_archive(folder: pathlib.Path, split: str) -> list[str]:
    """Checks a split's archive by the headers of its members; returns warnings.

    Raises:
      DataError: the archive is missing, not a tar file, truncated, or holds other members.
    """
    name, pattern, usual = ARCHIVES[split]
    path = folder / name
    if not path.is_file():
        there = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else None
        holds = (
            "that folder does not exist"
            if there is None
            else f"the folder holds {listed(there) or 'nothing'}"
        )
        similar = [p for p in there or [] if re.search(r"img_" + name[15:18], p, re.IGNORECASE)]
        hint = f"; is it {similar[0]!r}? Then rename it" if similar else ""
        raise DataError(
            f"--manual-dir {folder} has no {name}: {holds}{hint}. It comes from "
            "https://image-net.org/download-images (free for research, after registration)"
        )
    size, count, end = path.stat().st_size, 0, 0
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not pattern.fullmatch(pathlib.PurePosixPath(member.name).name):
                    raise DataError(
                        f"{path} holds {member.name!r}, which is not of the {split} archive "
                        f"({pattern.pattern}): is it another archive under this name?"
                    )
                count += 1
                end = member.offset_data + member.size
    except tarfile.TarError as error:
        truncated = count and "unexpected end" in str(error)
        what = (
            f"is truncated after {count} members"
            if truncated
            else f"is not a tar archive ({first_line(error)})"
        )
        raise DataError(f"{path} {what}; download it again") from error
    if size < end + _BLOCK or not count:
        raise DataError(
            f"{path} is truncated: {size} bytes, and its {count} members need more than {end}; "
            "download it again"
        )
    return (
        []
        if count == usual
        else [f"note: {path.name} has {count} members; ImageNet's own has {usual}"]
    )


def _build(manual: pathlib.Path, data_dir: str, splits: Sequence[str]) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow  # noqa: F401
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(
            f"building {NAME} needs TensorFlow ({error}): {install('prepare')}"
        ) from error
    check_room(manual, data_dir, splits)
    builder = tfds.builder(NAME, data_dir=data_dir, file_format="array_record")
    # These belong to a run that was killed, or to one that is building at the same time.
    before = _unfinished(data_dir)
    try:
        with _only(manual, splits) as archives:
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(manual_dir=archives)
            )
    except Exception as error:
        raise OSError(
            f"TFDS could not build {NAME} in {data_dir}: {first_line(error)}; the unfinished files "
            "have been removed, start the same command again"
        ) from error
    finally:
        for folder in _unfinished(data_dir) - before:
            shutil.rmtree(folder, ignore_errors=True)


def check_room(folder: pathlib.Path, data_dir: str, splits: Sequence[str]) -> None:
    """Raises DataError if the disk of a local data_dir has too little room for the build."""
    if "://" in data_dir:
        return
    target = pathlib.Path(data_dir).expanduser().absolute()
    there = next(parent for parent in (target, *target.parents) if parent.exists())
    # TFDS shuffles by way of a temporary copy of a split, so it needs room for both.
    need = sum((folder / ARCHIVES[split][0]).stat().st_size for split in splits)
    need += max((folder / ARCHIVES[split][0]).stat().st_size for split in splits)
    free = shutil.disk_usage(there).free
    if need > free:
        raise DataError(
            f"building {NAME} takes up to {need / 1e9:.1f} GB; {data_dir} has {free / 1e9:.1f} GB "
            "free"
        )


@contextlib.contextmanager
def _only(folder: pathlib.Path, splits: Sequence[str]) -> Iterator[str]:
    """Makes a folder of links to these splits' archives: TFDS's builder takes all it finds."""
    with tempfile.TemporaryDirectory() as links:
        for split in splits:
            (pathlib.Path(links) / ARCHIVES[split][0]).symlink_to(
                (folder / ARCHIVES[split][0]).absolute()
            )
        yield links


def _unfinished(data_dir: str) -> set[pathlib.Path]:
    """Returns the folders of unfinished builds in a local data_dir."""
    folder = pathlib.Path(data_dir).expanduser() / NAME
    return set() if "://" in data_dir else set(folder.glob("incomplete.*"))
