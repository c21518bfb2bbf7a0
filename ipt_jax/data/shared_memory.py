"""Items of worker processes in shared memory: written once, mapped by the receiver, gone when their
arrays are.

Plain files in /dev/shm (where there is none, temporary ones): the receiver maps a file and removes
its name at once, so that the memory lives as long as the arrays in it and nothing is left at exit.
multiprocessing's own shared memory would be reported as leaked when arrays outlive the modules that
know how to free it, and a full /dev/shm, 64 MB in many containers, would end the process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import mmap
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

# Bytes: what jax wants of an array that it takes without a copy
_ALIGNED = 64


class Room:
    """Folders of one stream, for what is on its way: in memory, and on disk for what memory has no
    room for.
    """

    def __init__(self) -> None:
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        prefix = f"ipt-data-{os.getpid()}-"
        self.folders = [
            tempfile.mkdtemp(prefix=prefix, dir=place) for place in dict.fromkeys((memory, None))
        ]

    def remove(self) -> None:
        """Removes both, with all that was not received."""
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)


class Parcel(NamedTuple):
    """An item: its pickle without the arrays' bytes, and where these are, as (offset, length) in a
    file.
    """

    data: bytes
    path: str
    places: list[int]


@dataclasses.dataclass(frozen=True)
class Sender:
    """`make`, whose items leave their arrays in shared memory."""

    make: Callable[[int], Any]
    room: Room

    def __call__(self, step: int) -> Parcel:
        buffers: list[pickle.PickleBuffer] = []
        data = pickle.dumps(self.make(step), protocol=5, buffer_callback=buffers.append)
        views = [buffer.raw() for buffer in buffers]
        for folder in self.room.folders:
            path = os.path.join(folder, str(step))
            try:
                return Parcel(data, path, _write(path, views))
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.unlink(path)
                full = error
        raise full


def _write(path: str, views: list[memoryview]) -> list[int]:
    places, end = [], 0
    with open(path, "wb") as file:
        for view in views:
            padding = -end % _ALIGNED
            file.write(bytes(padding))
            file.write(view)
            places += [end + padding, view.nbytes]
            end += padding + view.nbytes
    return places


def receive(parcel: Parcel) -> Any:
    """The item; its arrays are this process's own, and can be written to."""
    if not any(parcel.places[1::2]):
        os.unlink(parcel.path)
        return pickle.loads(parcel.data, buffers=[b""] * (len(parcel.places) // 2))
    with open(parcel.path, "rb") as file:
        memory = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    os.unlink(parcel.path)
    places = zip(parcel.places[::2], parcel.places[1::2], strict=True)
    return pickle.loads(
        parcel.data, buffers=[memory[start : start + length] for start, length in places]
    )
