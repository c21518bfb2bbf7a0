"""Packs a folder of images into a few large files (`ipt data prepare folder`).

:mod:`ipt_jax.data.sources.packed` describes the result and reads it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
from tqdm import tqdm

from ipt_jax import messages
from ipt_jax.data.files import is_dangling
from ipt_jax.data.sources.folder import Folder
from ipt_jax.data.sources.packed import DESCRIPTION, FORMAT, VERSION, Packed, crc32
from ipt_jax.errors import DataError, DecodeError
from ipt_jax.images.decode import decode
from ipt_jax.messages import listed, printable
from ipt_jax.storage import is_remote

SHARD_BYTES = 256 * 2**20
# Groups of one record for random access; image files are compressed already.
_OPTIONS = "group_size:1,uncompressed"


class PackOutcome(NamedTuple):
    """What was packed.

    Attributes:
      pictures: number of images.
      bytes: of all images.
      unreadable: "name: reason" of each image that was left out.
      other_formats: which files have the suffix of no image that is read, in words; "" for none.
    """

    pictures: int
    bytes: int
    unreadable: list[str]
    other_formats: str = ""


def pack(source: str, target: str, shard_bytes: int = SHARD_BYTES, threads: int = 0) -> PackOutcome:
    """Packs all images below a folder, byte for byte, in the order of their names.

    Images that cannot be decoded are left out. The files are written to a folder beside the
    target, which takes the target's name after all records have been read back. After a failure
    nothing is left.

    Args:
      source: the folder of images, as for `Folder`.
      target: the local folder to make.
      shard_bytes: a file is closed after the image with which it reaches this size.
      threads: number of threads that read and decode; 0 for one per core.

    Raises:
      DataError: the folder has no images, or none that can be read, the target exists, or the disk
        has too little room.
      OSError: writing failed.
    """
    pictures = Folder(source)
    if is_remote(target):
        raise DataError(
            f"--out {target}: a set is packed on a local disk, where its records are read back; "
            f"name a local folder and copy it: gcloud storage cp -r FOLDER {target}"
        )
    final = pathlib.Path(target).expanduser().absolute()
    if final.exists():
        raise DataError(f"{target} exists already; remove it, or name another folder with --out")
    unfinished = final.with_name(final.name + ".incomplete")
    _check_room(pictures, source, final)
    try:
        # A run that was killed may have left it.
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        outcome = _write(pictures, unfinished, shard_bytes, threads or os.cpu_count() or 1)
        _read_back(unfinished)
        unfinished.rename(final)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return outcome


def _check_room(pictures: Folder, source: str, final: pathlib.Path) -> None:
    there = next(parent for parent in final.parents if parent.exists())
    paths = (pathlib.Path(source).expanduser() / pictures.name(i) for i in range(len(pictures)))
    need = sum(path.stat().st_size for path in paths if not is_dangling(path))
    free = shutil.disk_usage(there).free
    if need * 1.02 > free:
        raise DataError(
            f"{len(pictures)} images of {need / 1e9:.2f} GB do not fit: {there} has "
            f"{free / 1e9:.2f} GB free"
        )


def _write(pictures: Folder, folder: pathlib.Path, shard_bytes: int, threads: int) -> PackOutcome:
    shards = _Shards(folder, shard_bytes)
    names, checksums, unreadable, total = [], [], [], 0
    with contextlib.closing(shards):
        for name, data, fault in tqdm(
            _read_all(pictures, threads),
            "packing",
            len(pictures),
            unit=" images",
            file=messages.stderr(),
        ):
            if fault:
                unreadable.append(f"{printable(name)}: {fault}")
                continue
            shards.write(data)
            names.append(name)
            checksums.append(crc32(data))
            total += len(data)
    if not names:
        raise DataError(
            f"none of the {len(unreadable)} images can be read: {listed(unreadable, 3)}"
        )
    description = {
        "format": FORMAT,
        "version": VERSION,
        "pictures": len(names),
        "bytes": total,
        "shards": shards.described(),
        "names": names,
        "crc32": checksums,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description) + "\n")
    return PackOutcome(len(names), total, unreadable, pictures.left_out)


def _read_all(pictures: Folder, threads: int) -> Iterator[tuple[str, bytes, str]]:
    """Yields (name, bytes, fault or "") of all images in order; threads read some of them ahead."""

    def read_one(i: int) -> tuple[str, bytes, str]:
        data = b""
        try:
            data = pictures[i]
            decode(data)
        except DecodeError as error:
            return pictures.name(i), data, str(error)
        return pictures.name(i), data, ""

    cv2.setNumThreads(1)
    waiting: deque[Future[tuple[str, bytes, str]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for i in range(len(pictures)):
                waiting.append(pool.submit(read_one, i))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class _Shards:
    """Writes array_record files one after the other.

    They get their final names when their number is known.
    """

    def __init__(self, folder: pathlib.Path, shard_bytes: int):
        self._folder, self._limit = folder, shard_bytes
        self._writer: Any = None
        self._size = 0
        self._counts: list[int] = []

    def write(self, data: bytes) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        try:
            if self._writer is None:
                self._writer = ArrayRecordWriter(os.fspath(self._path(len(self._counts))), _OPTIONS)
                self._counts.append(0)
                self._size = 0
            self._writer.write(data)
        except Exception as error:
            raise OSError(
                f"writing to {self._folder} failed: {error}; nothing of it was kept"
            ) from error
        self._counts[-1] += 1
        self._size += len(data)
        if self._size >= self._limit:
            self.close()

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            except Exception as error:
                raise OSError(
                    f"writing to {self._folder} failed: {error}; nothing of it was kept"
                ) from error

    def described(self) -> list[dict[str, Any]]:
        """Renames the files and returns their names, counts, sizes and checksums."""
        shards = []
        for i, count in enumerate(self._counts):
            path = self._folder / f"pictures-{i:05}-of-{len(self._counts):05}.array_record"
            self._path(i).rename(path)
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            shards.append(
                {
                    "file": path.name,
                    "pictures": count,
                    "bytes": path.stat().st_size,
                    "sha256": digest,
                }
            )
        return shards

    def _path(self, i: int) -> pathlib.Path:
        return self._folder / f"pictures-{i:05}"


def _read_back(folder: pathlib.Path) -> None:
    """Raises OSError unless every record has the checksum of its image."""
    packed = Packed(folder)
    wrong = [
        packed.name(i)
        for i in tqdm(range(len(packed)), "reading back", unit=" images", file=messages.stderr())
        if crc32(packed[i]) != packed.checksum(i)
    ]
    if wrong:
        raise OSError(
            f"{len(wrong)} images read back differ from what was written (a faulty disk?): "
            f"{listed(wrong)}"
        )


def report_lines(outcome: PackOutcome, target: str) -> Sequence[str]:
    """Returns the lines of the report for the user."""
    lines = [
        f"{target}: {outcome.pictures} images, {outcome.bytes / 1e9:.2f} GB; to train on it: "
        f"--config.data.source=packed --config.data.dir={target}"
    ]
    if outcome.other_formats:
        lines.append(outcome.other_formats)
    if outcome.unreadable:
        lines.append(f"{len(outcome.unreadable)} image(s) cannot be read and were left out:")
        lines += [f"  {text}" for text in outcome.unreadable]
    return lines
