"""TFDS's own imagenet2012 builder on stand-in archives, and its output read by `Tfds`."""

import importlib.util
import io
import os
import pathlib
import shlex
import subprocess
import sys
import tarfile

import numpy as np
import places
import pytest

from ipt_jax.data.sources.embedded import Embedded
from ipt_jax.data.sources.source import open_source
from ipt_jax.data.sources.tfds import Tfds
from ipt_jax.errors import DataError
from ipt_jax.images.decode import decode

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorflow") is None,
        reason="TensorFlow is not installed: pip install -e '.[prepare]'",
    ),
]


def _photographs() -> dict[str, bytes]:
    """Returns file name <wnid>_<name>.JPEG -> JPEG.

    The images are ImageNet's if $IPT_TEST_DATA holds some, otherwise scikit-image's.
    """
    folder = pathlib.Path(os.environ.get("IPT_TEST_DATA", "nowhere"), "imagenet_samples")
    if folder.is_dir():
        return {path.name: path.read_bytes() for path in sorted(folder.glob("n*_*.JPEG"))[:40]}
    cv2 = pytest.importorskip("cv2")
    pytest.importorskip("skimage")
    source = Embedded("all")
    names = ["n01440764_0.JPEG", "n01440764_1.JPEG", "n01494475_0.JPEG", "n01514859_0.JPEG"]
    images = [np.ascontiguousarray(source[i][:, :, ::-1]) for i in range(4)]
    return {
        name: cv2.imencode(".jpg", image)[1].tobytes()
        for name, image in zip(names, images, strict=True)
    }


def _tar(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def _run(*arguments: str) -> None:
    command = [sys.executable, *arguments]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, timeout=300
    )
    assert result.returncode == 0, result.stderr[-4000:]


@pytest.fixture(scope="module")
def photographs() -> dict[str, bytes]:
    return _photographs()


@pytest.fixture(scope="module")
def archives(photographs, tmp_path_factory) -> pathlib.Path:
    """Makes stand-ins for the two archives that ImageNet's owners distribute."""
    folder = tmp_path_factory.mktemp("archives")
    synsets: dict[str, dict[str, bytes]] = {}
    for name, data in photographs.items():
        synsets.setdefault(name.split("_")[0], {})[name] = data
    train = {f"{synset}.tar": _tar(files) for synset, files in synsets.items()}
    validation = {
        f"ILSVRC2012_val_{i:08}.JPEG": data for i, data in enumerate(photographs.values(), 1)
    }
    (folder / "ILSVRC2012_img_train.tar").write_bytes(_tar(train))
    (folder / "ILSVRC2012_img_val.tar").write_bytes(_tar(validation))
    return folder


def _build(archives: pathlib.Path, data_dir: pathlib.Path, file_format: str) -> pathlib.Path:
    # TFDS's command line also needs apache-beam and mlcroissant, so this uses its Python interface,
    # in a process of its own: this process must not import TensorFlow.
    code = (
        "import sys, tensorflow_datasets as tfds\n"
        "archives, data_dir, file_format = sys.argv[1:]\n"
        "config = tfds.download.DownloadConfig(manual_dir=archives)\n"
        "builder = tfds.builder('imagenet2012', data_dir=data_dir, file_format=file_format)\n"
        "builder.download_and_prepare(download_config=config)\n"
    )
    _run("-c", code, str(archives), str(data_dir), file_format)
    return data_dir


@pytest.fixture(scope="module")
def array_record(archives, tmp_path_factory) -> pathlib.Path:
    return _build(archives, tmp_path_factory.mktemp("array_record"), "array_record")


def _file_name(source: Tfds, i: int) -> str:
    return source.name(i).rsplit("(", 1)[1].rstrip(")")


def test_train_split_holds_the_files_of_the_archives(array_record, photographs):
    source = Tfds("imagenet2012", "train", array_record)
    read = {_file_name(source, i): source[i] for i in range(len(source))}
    assert read == photographs
    assert source.name(0).startswith("imagenet2012/train[0] (n")
    for i in range(len(source)):
        assert decode(source[i]).shape[2] == 3


def test_validation_split_holds_the_files_of_the_archives(array_record, photographs):
    source = Tfds("imagenet2012", "validation", array_record)
    read = {_file_name(source, i): source[i] for i in range(len(source))}
    assert read == {
        f"ILSVRC2012_val_{i:08}.JPEG": data for i, data in enumerate(photographs.values(), 1)
    }


def test_held_out_pictures_are_not_trained_on(array_record, photographs):
    config = {"source": "tfds", "dir": str(array_record), "held_out": 2}
    train, held_out = open_source(config, "train"), open_source(config, "eval")
    names = [{_file_name(source, i) for i in range(len(source))} for source in (train, held_out)]
    assert (
        len(names[1]) == 2 and not names[0] & names[1] and names[0] | names[1] == set(photographs)
    )


def test_reading_does_not_import_tensorflow(array_record):
    code = (
        "import sys\n"
        "from ipt_jax.data.sources import Tfds\n"
        f"assert len(Tfds('imagenet2012', 'train', {str(array_record)!r})[0]) > 100\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    root = places.ROOT
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=root,
        check=False,
        timeout=300,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.skipif(
    importlib.util.find_spec("apache_beam") is None, reason="apache-beam is not installed"
)
def test_the_advice_for_a_tfrecord_set_works(archives, array_record, tmp_path):
    data_dir = _build(archives, tmp_path / "tfrecord", "tfrecord")
    with pytest.raises(DataError, match="is in tfrecord format") as error:
        Tfds("imagenet2012", "train", data_dir)
    command = shlex.split(str(error.value).rsplit(": ", 1)[1])
    assert command[0] == "python"
    _run(*command[1:])
    converted, direct = (
        Tfds("imagenet2012", "train", folder) for folder in (data_dir, array_record)
    )
    assert [converted[i] for i in range(len(converted))] == [direct[i] for i in range(len(direct))]
