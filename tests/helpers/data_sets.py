"""Small sources and TFDS sets for the tests of the data side."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np

from ipt_jax.data.pipeline import Batch, Batches, stream
from ipt_jax.errors import DecodeError
from ipt_jax.tasks import PAPER_TASKS, make_tasks


class Pictures:
    """Pictures of noise, all different: picture i's left upper pixel holds i. Some can be broken;
    reads are counted.
    """

    def __init__(self, count: int, height: int = 60, width: int = 70, broken: Sequence[int] = ()):
        self.count, self.size, self.broken = count, (height, width), frozenset(broken)
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> np.ndarray:
        if not 0 <= i < self.count:
            raise IndexError(i)
        self.reads.append(i)
        if i in self.broken:
            raise DecodeError("torn in half")
        # Flat, so that every crop of it tells which it is
        return np.full((*self.size, 3), i % 256, np.uint8)

    def name(self, i: int) -> str:
        return f"picture {i}"

    def fingerprint(self) -> str:
        return f"{self.count} {self.size}"


class Noisy(Pictures):
    """The same with random pixels."""

    def __getitem__(self, i: int) -> np.ndarray:
        super().__getitem__(i)
        return np.random.default_rng(i).integers(0, 256, (*self.size, 3), dtype=np.uint8)


class Raising(Noisy):
    """Fails in a way that is not the data's fault."""

    def __getitem__(self, i: int) -> np.ndarray:
        raise ZeroDivisionError("a fault in the source's own code")


def batches(source: object, **changes: object) -> Batches:
    """A small `Batches`: the paper's six tasks, tiles of 12."""
    tasks = make_tasks(changes.pop("tasks", PAPER_TASKS))
    settings = dict(seed=3, batch_size=4 * len(tasks), tile=12, group=2) | changes
    return Batches(source=source, tasks=tasks, **settings)


def jpeg(seed: int, height: int = 120, width: int = 150) -> bytes:
    """A JPEG of smooth noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", image)[1].tobytes()


def write_tfds(
    data_dir: pathlib.Path, pictures: Sequence[bytes], name: str = "tiny", shards: int = 2
) -> pathlib.Path:
    """A TFDS array_record set with one split "train", written without TensorFlow; returns
    <data_dir>/<name>/1.0.0.
    """
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    directory = data_dir / name / "1.0.0"
    directory.mkdir(parents=True)
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "file_name": tfds.features.Text(),
    }
    tfds.features.FeaturesDict(features).save_config(directory)
    parts = np.array_split(np.arange(len(pictures)), shards)
    split = {
        "name": "train",
        "shardLengths": [str(len(part)) for part in parts],
        "numBytes": str(sum(map(len, pictures))),
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    }
    info = {"name": name, "version": "1.0.0", "fileFormat": "array_record", "splits": [split]}
    (directory / "dataset_info.json").write_text(json.dumps(info))
    for shard, part in enumerate(parts):
        writer = ArrayRecordWriter(
            str(directory / f"{name}-train.array_record-{shard:05}-of-{shards:05}"), "group_size:1"
        )
        for i in part:
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(pictures[i])
            example.features.feature["file_name"].bytes_list.value.append(b"%d.jpg" % i)
            writer.write(example.SerializeToString())
        writer.close()
    return directory


def digest(batch: Batch) -> str:
    state = hashlib.sha256()
    for name, pair in batch.items():
        for key, array in pair.items():
            state.update(f"{name} {key} {array.shape} {array.dtype}".encode() + array.tobytes())
    return state.hexdigest()


def taken(which: Batches, start: int, stop: int, loader: dict[str, int]) -> list[str]:
    with contextlib.closing(stream(which, start, stop, loader)) as items:
        return [digest(item.batch) for item in items]
