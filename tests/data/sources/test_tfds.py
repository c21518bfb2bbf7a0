"""TFDS sets that are written without TensorFlow and read back."""

import concurrent.futures
import json
import multiprocessing
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from ipt_jax.data.sources.source import Source, open_source
from ipt_jax.data.sources.tfds import Tfds
from ipt_jax.errors import DataError
from ipt_jax.images.decode import decode

tfds = pytest.importorskip("tensorflow_datasets")
array_record_module = pytest.importorskip("array_record.python.array_record_module")

PICTURES = [b"encoded picture %d " % i + bytes([i]) * (100 + i) for i in range(10)]
SHARDS = (4, 3, 3)


def _write_set(
    data_dir: pathlib.Path,
    name: str = "tiny",
    version: str = "1.0.0",
    file_format: str = "array_record",
    image: str = "image",
    feature: object = None,
) -> pathlib.Path:
    """Writes a set with one split "train" of PICTURES; features: image, file_name and label."""
    from tensorflow_datasets.proto import tf_example_pb2

    directory = data_dir / name / version
    directory.mkdir(parents=True)
    features = {
        image: feature or tfds.features.Image(shape=(None, None, 3)),
        "file_name": tfds.features.Text(),
        "label": tfds.features.ClassLabel(num_classes=7),
    }
    tfds.features.FeaturesDict(features).save_config(directory)
    split = {
        "name": "train",
        "shardLengths": [str(length) for length in SHARDS],
        "numBytes": str(sum(map(len, PICTURES))),
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    }
    info = {
        "name": name.split("/")[0],
        "version": version,
        "fileFormat": file_format,
        "splits": [split],
    }
    (directory / "dataset_info.json").write_text(json.dumps(info))
    number = 0
    for i, length in enumerate(SHARDS):
        path = directory / f"{info['name']}-train.{file_format}-{i:05}-of-{len(SHARDS):05}"
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for _ in range(length):
            example = tf_example_pb2.Example()
            example.features.feature[image].bytes_list.value.append(PICTURES[number])
            example.features.feature["file_name"].bytes_list.value.append(b"%d.png" % number)
            example.features.feature["label"].int64_list.value.append(number % 7)
            writer.write(example.SerializeToString())
            number += 1
        writer.close()
    return directory


def _read(source: Source, i: int) -> bytes | np.ndarray:
    return source[i]


def test_reads_the_stored_bytes_in_any_order(tmp_path):
    _write_set(tmp_path)
    source = Tfds("tiny", "train", tmp_path)
    assert isinstance(source, Source) and len(source) == 10
    for i in (9, 0, 5, 3, 4, 9):
        assert source[i] == PICTURES[i] and isinstance(source[i], bytes)
    assert source.name(7) == "tiny/train[7] (7.png)"
    with pytest.raises(IndexError):
        source[10]


def test_reads_part_of_a_split(tmp_path):
    _write_set(tmp_path)
    source = Tfds("tiny:1.0.0", "train[3:8]", tmp_path)
    assert [source[i] for i in range(len(source))] == PICTURES[3:8]
    config = {"source": "tfds", "name": "tiny", "dir": str(tmp_path), "held_out": 3}
    assert [open_source(config)[i] for i in range(7)] == PICTURES[:7]
    assert [open_source(config, "eval")[i] for i in range(3)] == PICTURES[7:]
    assert open_source(config, "eval").name(0) == "tiny/train[7] (7.png)"
    # Held-out images are the last of the part.
    config |= {"split": "train[2:8]"}
    assert [open_source(config)[i] for i in range(3)] == PICTURES[2:5]
    assert [open_source(config, "eval")[i] for i in range(3)] == PICTURES[5:8]
    with pytest.raises(DataError, match=r"held_out=10 .* tiny/1.0.0, split train has 10 images"):
        Tfds("tiny", "train", tmp_path, "train", 10)


def test_threads_and_processes_read_the_same(tmp_path):
    _write_set(tmp_path)
    source = Tfds("tiny", "train", tmp_path)
    unread = pickle.dumps(source)
    order = list(np.random.default_rng(0).integers(0, 10, 300))
    # The first reads of all threads race for opening the files.
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: source[i], order)) == [PICTURES[i] for i in order]
    # No open file is pickled.
    assert pickle.dumps(source) == unread
    assert pickle.loads(unread)[4] == PICTURES[4]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.starmap(_read, [(source, i) for i in range(10)]) == PICTURES


def test_fingerprint_is_of_content_not_of_place(tmp_path, monkeypatch):
    _write_set(tmp_path / "here")
    _write_set(tmp_path / "there")
    first = Tfds("tiny", "train", tmp_path / "here").fingerprint()
    assert Tfds("tiny", "train", tmp_path / "there").fingerprint() == first
    others = [
        Tfds("tiny", "train[:9]", tmp_path / "here"),
        Tfds("tiny", "train", tmp_path / "here", "train", 2),
        Tfds("tiny", "train", tmp_path / "here", "eval", 2),
    ]
    _write_set(tmp_path / "here", version="1.0.1")
    others.append(Tfds("tiny", "train", tmp_path / "here"))
    monkeypatch.setitem(globals(), "PICTURES", [PICTURES[0][::-1], *PICTURES[1:]])
    _write_set(tmp_path / "other pictures")
    others.append(Tfds("tiny", "train", tmp_path / "other pictures"))
    assert len({first, *(source.fingerprint() for source in others)}) == 6


def test_takes_the_newest_version_and_finds_configs(tmp_path):
    for version in ("2.0.0", "10.0.0"):
        _write_set(tmp_path, version=version)
    assert "10.0.0" in Tfds("tiny", "train", tmp_path).directory
    assert "2.0.0" in Tfds("tiny:2.0.0", "train", tmp_path).directory
    _write_set(tmp_path, name="sized/32x32")
    assert Tfds("sized/32x32", "train", tmp_path)[2] == PICTURES[2]
    with pytest.raises(DataError, match=r"TFDS set sized is not in .*sized holds 32x32"):
        Tfds("sized", "train", tmp_path)


def test_default_directory_is_that_of_tfds(tmp_path, monkeypatch):
    _write_set(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert len(open_source({"source": "tfds", "name": "tiny"}, "all")) == 10


def _error(*args) -> str:
    with pytest.raises(DataError) as error:
        Tfds(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_sets_say_what_is_there_and_how_to_prepare_them(tmp_path):
    _write_set(tmp_path, name="tiny")
    message = _error("imagenet2012", "train", tmp_path)
    assert "holds tiny." in message and "ipt data prepare" in message
    assert "that folder does not exist" in _error("tiny", "train", tmp_path / "nowhere")
    assert "holds 1.0.0" in _error("tiny:3.0.0", "train", tmp_path)
    assert "not of the form" in _error("../tiny", "train", tmp_path)
    message = _error("tiny", "test", tmp_path)
    assert "no split 'test'" in message and "train (10)" in message
    assert "no split 'train[abc]'" in _error("tiny", "train[abc]", tmp_path)


def test_unusable_sets_say_why(tmp_path):
    directory = _write_set(tmp_path / "1", file_format="tfrecord")
    message = _error("tiny", "train", tmp_path / "1")
    assert (
        f"convert_format --dataset_version_dir={directory} --out_file_format=array_record"
        in message
    )
    _write_set(tmp_path / "2", image="picture")
    assert 'no image feature "image"; its features: file_name, label, picture' in _error(
        "tiny", "train", tmp_path / "2"
    )
    _write_set(tmp_path / "3", feature=tfds.features.Text())
    assert 'no image feature "image"' in _error("tiny", "train", tmp_path / "3")
    directory = _write_set(tmp_path / "4")
    (directory / "tiny-train.array_record-00001-of-00003").unlink()
    assert "lacks 1 of its 3 files: " in _error("tiny", "train", tmp_path / "4")
    directory = _write_set(tmp_path / "5")
    (directory / "dataset_info.json").write_text("{")
    assert "cannot read the description" in _error("tiny", "train", tmp_path / "5")


@pytest.mark.parametrize("features", [{"picture": b"x"}, {"image": 3}, {}])
def test_records_of_something_else_name_the_missing_feature(tmp_path, features):
    from tensorflow_datasets.proto import tf_example_pb2

    directory = _write_set(tmp_path)
    example = tf_example_pb2.Example()
    for name, value in features.items():
        feature = example.features.feature[name]
        (feature.bytes_list if isinstance(value, bytes) else feature.int64_list).value.append(value)
    for i, length in enumerate(SHARDS):
        path = directory / f"tiny-train.array_record-{i:05}-of-{len(SHARDS):05}"
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for _ in range(length):
            writer.write(example.SerializeToString())
        writer.close()
    source = Tfds("tiny", "train", tmp_path)
    for read in (lambda: source[5], source.fingerprint):
        with pytest.raises(
            DataError,
            match=r'^tiny/train\[\d\] in .* has no feature "image".* another program wrote',
        ):
            read()
    assert source.name(5) == "tiny/train[5]"


def test_damaged_records_are_named(tmp_path):
    directory = _write_set(tmp_path)
    path = directory / "tiny-train.array_record-00001-of-00003"
    path.write_bytes(path.read_bytes()[:64])
    source = Tfds("tiny", "train", tmp_path)
    assert source[0] == PICTURES[0]
    with pytest.raises(DataError, match=r"cannot read tiny/train\[5\]") as error:
        source[5]
    assert "\n" not in str(error.value)
    assert source.name(5) == "tiny/train[5]"


def test_needs_no_tensorflow_and_is_quiet(tmp_path):
    _write_set(tmp_path)
    code = (
        "import sys\n"
        "from ipt_jax.data.sources import Tfds\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        f"source = Tfds('tiny', 'train', {str(tmp_path)!r})\n"
        "assert source[3].startswith(b'encoded picture 3 ')\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_bytes_that_are_no_picture_are_left_to_decode(tmp_path):
    _write_set(tmp_path)
    with pytest.raises(DataError, match="not a JPEG, PNG"):
        decode(Tfds("tiny", "train", tmp_path)[0])
