"""Opening the source that a config names."""

from __future__ import annotations

import pickle
import sys

import pytest

from ipt_jax.config.loading import complete
from ipt_jax.data.sources.folder import Folder
from ipt_jax.data.sources.source import open_source
from ipt_jax.errors import DataError
from ipt_jax.train.loop import pretrain


def test_open_source_opens_what_the_config_names(folder):
    config = {"source": "folder", "dir": str(folder), "held_out": 1, "name": "", "split": None}
    train, held_out = open_source(config), open_source(config, "eval")
    assert (len(train), len(held_out), len(open_source(config, "all"))) == (10, 1, 11)
    pytest.importorskip("skimage")
    assert len(open_source({"source": "embedded", "dir": None}, "eval")) == 1


def test_open_source_takes_a_config_dict(folder):
    config_dict = pytest.importorskip("ml_collections").ConfigDict(
        {"source": "folder", "dir": str(folder)}
    )
    assert len(open_source(config_dict)) == 11


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (
            "foldr",
            r"unknown source 'foldr' .did you mean 'folder'.*known: embedded, folder, pairs, "
            "packed, tfds",
        ),
        ("", "unknown source ''"),
    ],
)
def test_open_source_names_the_nearest_known_source(source, match):
    with pytest.raises(DataError, match=match) as error:
        open_source({"source": source})
    assert "\n" not in str(error.value)


def test_sources_survive_pickling(folder):
    source = Folder(folder)
    source.fingerprint()
    copy = pickle.loads(pickle.dumps(source))
    assert [copy[i] for i in range(4)] == [source[i] for i in range(4)]
    assert copy.fingerprint() == source.fingerprint()


def test_gs_paths_without_their_package_say_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    for config in (
        {"source": "tfds", "dir": "gs://bucket/sets"},
        {"source": "packed", "dir": "gs://bucket/set.packed"},
    ):
        with pytest.raises(DataError, match=r"^data\.dir=gs://bucket/set.*: pip install gcsfs$"):
            open_source(config)
    with pytest.raises(DataError, match=r"^workdir=gs://bucket/run: .*: pip install gcsfs$"):
        pretrain(complete({"data": {"source": "embedded"}}), "gs://bucket/run")
