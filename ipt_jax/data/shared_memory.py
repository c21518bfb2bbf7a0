"""Passes items from worker processes to the run in shared memory.

The sender writes an item's arrays to a file in /dev/shm, or in the temporary folder if there is no
room. The receiver maps that file and removes its name at once. The memory then lives as long as
the arrays in it, and nothing is left at exit. The next run removes what is left of a run that was
killed together with its workers.

multiprocessing's own shared memory is no alternative. It reports a leak when arrays outlive the
modules that can free them, and a full /dev/shm (64 MB in many containers) would end the process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import mmap
import os
import pickle
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

from ipt_jax.storage import Scratch

# The start of the names of the folders; the number of the run's process follows it.
PREFIX = "ipt-data-"

# Alignment in bytes that lets jax use an array without a copy.
_ALIGNED = 64


class Room:
    """The folders of one stream for items in transit: in memory, and on disk as a fallback."""

    def __init__(self) -> None:
        disk = tempfile.gettempdir()
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else disk
        self._scratch = [Scratch(PREFIX, place) for place in dict.fromkeys((memory, disk))]
        self.folders = [scratch.path for scratch in self._scratch]

    def remove(self) -> None:
        """Removes the folders and all items that were not received."""
        for scratch in self._scratch:
            scratch.remove()


class Parcel(NamedTuple):
    """An item in transit.

    Attributes:
      data: the item's pickle, without the bytes of its arrays.
      path: the file with these bytes.
      places: offset and length in that file of one array after another.
    """

    data: bytes
    path: str
    places: list[int]


@dataclasses.dataclass(frozen=True)
class Sender:
    """Calls `make` and leaves the arrays of its items in shared memory.

    Calling it raises OSError if neither folder has room for the item.
    """

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
    """Writes buffers to a file, aligned; returns the places as `Parcel` holds them."""
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
    """Returns the item of a parcel, once; its arrays belong to this process and are writable."""
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
