"""Prepared TFDS sets as a source of encoded images, read without TensorFlow.

TFDS and its array_record reader are imported when a set is opened, since that takes seconds.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any

from ipt_jax.data.sources.held_out import check_held_out, check_split
from ipt_jax.errors import DataError, DecodeError
from ipt_jax.messages import first_line, listed
from ipt_jax.storage import expanded, reachable


class Tfds:
    """The images of a prepared TFDS set (array_record files), as the encoded bytes it stores.

    Args:
      name: of any set with an image feature "image", such as "imagenet2012", "imagenet2012:5.1.0"
        or "imagenet_resized/32x32". Without a version, the newest version in `data_dir` is used.
      tfds_split: a split of the set or a part of one, such as "train" or "train[:1000]".
      data_dir: the folder that holds the set's folder; local or gs://. None means TFDS's default.
      split: "train", "eval" or "all".
      held_out: number of held-out images: the last ones, since TFDS shuffled the set when it was
        prepared.

    Attributes:
      directory: the folder of the set's version.

    Raises:
      DataError: the set, the split or the feature is missing, or the set lacks files or is not in
        array_record format.
    """

    def __init__(
        self,
        name: str,
        tfds_split: str = "train",
        data_dir: str | os.PathLike[str] | None = None,
        split: str = "all",
        held_out: int = 0,
    ):
        check_split(split)
        self.directory = _tfds_directory(name, data_dir)
        self._tfds_split = tfds_split
        builder = _tfds_builder(self.directory, name)
        info = builder.info
        try:
            parts = info.splits[tfds_split].file_instructions
        # TFDS raises exceptions of nearly any type for a split that it cannot parse.
        except Exception as error:
            splits = ", ".join(
                f"{key} ({value.num_examples})" for key, value in info.splits.items()
            )
            raise DataError(
                f"{info.full_name} has no split {tfds_split!r}; its splits: {splits}"
            ) from error
        stored = {os.path.basename(os.fspath(path)) for path in expanded(self.directory).iterdir()}
        missing = [part.filename for part in parts if os.path.basename(part.filename) not in stored]
        if missing:
            raise DataError(
                f"{info.full_name} lacks {len(missing)} of its {len(parts)} files: "
                f"{listed(missing)}"
            )
        total = sum(part.take for part in parts)
        check_held_out(split, held_out, total, f"{info.full_name}, split {tfds_split}")
        parts_of = {
            "train": slice(0, total - held_out),
            "eval": slice(total - held_out, total),
            "all": slice(None),
        }
        self._indices = range(total)[parts_of[split]]
        self._label = f"{info.name}/{tfds_split}"
        shards = [
            (os.path.basename(part.filename), part.skip, part.take, part.examples_in_shard)
            for part in parts
        ]
        self._identity = repr((info.full_name, tfds_split, self._indices, shards))
        self._has_file_name = "file_name" in info.features
        self._records: Any = None

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, i: int) -> bytes:
        return self._read(i)["image"]

    def name(self, i: int) -> str:
        """Reads the record and returns, e.g., "imagenet2012/train[123] (n01440764_10026.JPEG)"."""
        label = f"{self._label}[{self._indices[i]}]"
        try:
            return (
                f"{label} ({self._read(i)['file_name'].decode()})" if self._has_file_name else label
            )
        # AttributeError: the record lacks that feature.
        except (DataError, UnicodeDecodeError, AttributeError):
            return label

    def fingerprint(self) -> str:
        """Returns the digest of name, version, split, shards and their lengths, and 16 images."""
        digest = hashlib.sha256(self._identity.encode())
        for i in range(0, len(self), max(1, len(self) // 16)):
            try:
                digest.update(self[i])
            except DecodeError:
                digest.update(b"unreadable")
        return digest.hexdigest()

    def _read(self, i: int) -> dict[str, Any]:
        index = self._indices[i]
        # Two threads may both open the records; the second result is kept, and both are valid.
        if self._records is None:
            self._records = _tfds_records(self.directory, self._tfds_split)
        try:
            record = self._records[index]
        except Exception as error:
            # A damaged record stays unreadable, so another image may replace it. Any other fault,
            # such as storage that does not answer, may be gone next time: a replacement now would
            # give the same step different batches.
            kind = DecodeError if "Corrupted" in str(error) else DataError
            raise kind(
                f"cannot read {self._label}[{index}] in {self.directory}: {first_line(error)}"
            ) from error
        if not isinstance(record["image"], bytes):
            raise DataError(
                f'{self._label}[{index}] in {self.directory} has no feature "image", which '
                "features.json names: another program wrote its files"
            )
        return record

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_records": None}


def _tfds_directory(name: str, data_dir: str | os.PathLike[str] | None) -> str:
    """Returns the folder <data_dir>/<name>[/<config>]/<version> of a prepared set.

    Raises:
      DataError: the name is malformed, or the folder does not exist.
    """
    match = re.fullmatch(r"(\w+)(?:/([\w.+-]+))?(?::(\d+\.\d+\.\d+))?", name)
    if match is None:
        raise DataError(
            f'data.name: {name!r} is not of the form "name", "name/config" or "name:1.2.3"'
        )
    if data_dir is None:
        data_dir = os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")
    root = expanded(data_dir)
    reachable(root, "data.dir")
    base = root.joinpath(*filter(None, match.groups()[:2]))

    def listing(path: Any) -> list[str]:
        return (
            sorted(entry.name for entry in path.iterdir() if entry.is_dir())
            if path.is_dir()
            else []
        )

    versions = [entry for entry in listing(base) if re.fullmatch(r"\d+\.\d+\.\d+", entry)]
    wanted = match.group(3) or max(
        versions, key=lambda v: tuple(map(int, v.split("."))), default=None
    )
    if wanted in versions and (base / wanted / "dataset_info.json").exists():
        return os.fspath(base / wanted)
    if not root.is_dir():
        there = "that folder does not exist"
    else:
        where = base if base.is_dir() else root
        there = f"{where} holds {listed(listing(where)) or 'no folders'}"
    raise DataError(
        f"TFDS set {name} is not in data.dir={data_dir}: no "
        f"{base / (wanted or 'VERSION')}/dataset_info.json; {there}. To build imagenet2012: ipt "
        "data prepare"
    )


def _tfds_builder(builder_dir: str, name: str) -> Any:
    """Returns the read-only builder of a set that this module can read.

    Raises:
      DataError: the set's description is damaged, or it lacks the format or the feature.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(f"reading TFDS sets needs tensorflow-datasets: {error}") from error
    try:
        builder = tfds.builder_from_directory(builder_dir)
        formats = {file_format.value for file_format in builder.info.available_file_formats()}
    # dataset_info.json or features.json is damaged or too old.
    except Exception as error:
        raise DataError(
            f"cannot read the description of a TFDS set in {builder_dir}: {first_line(error)}"
        ) from error
    if "array_record" not in formats:
        raise DataError(
            f"TFDS set {name} in {builder_dir} is in {' and '.join(sorted(formats))} format, which "
            "has no random access; build it again with file_format=array_record, or convert it "
            "(needs tensorflow-cpu and apache-beam): python -m "
            "tensorflow_datasets.scripts.convert_format "
            f"--dataset_version_dir={builder_dir} --out_file_format=array_record"
        )
    builder.info.set_file_format("array_record", override=True, override_if_initialized=True)
    features = builder.info.features
    if "image" not in features or not isinstance(features["image"], tfds.features.Image):
        raise DataError(
            f'TFDS set {name} has no image feature "image"; its features: '
            f"{', '.join(sorted(features))}"
        )
    return builder


def _tfds_records(builder_dir: str, tfds_split: str) -> Any:
    """Opens the records for reading: a sequence of dicts with "image" (bytes)."""
    import tensorflow_datasets as tfds

    builder = _tfds_builder(builder_dir, builder_dir)
    skip = {feature: tfds.decode.SkipDecoding() for feature in builder.info.features}
    return builder.as_data_source(tfds_split, decoders=skip)
