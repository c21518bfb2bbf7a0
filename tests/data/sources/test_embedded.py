"""The embedded photographs: their splits, their pixels, and a missing package."""

from __future__ import annotations

import importlib.util
import pathlib

import cv2
import numpy as np
import pytest

from ipt_jax.data.sources.embedded import Embedded
from ipt_jax.errors import DataError


def _picture(seed: int, height: int = 24, width: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()


def test_embedded_splits_are_disjoint_and_complete():
    pytest.importorskip("skimage")
    train, held_out, everything = Embedded("train"), Embedded("eval"), Embedded("all")
    names = [[s.name(i) for i in range(len(s))] for s in (train, held_out, everything)]
    assert [len(n) for n in names] == [3, 1, 4]
    assert set(names[0]) | set(names[1]) == set(names[2]) and not set(names[0]) & set(names[1])
    for i in range(4):
        assert (
            everything[i].dtype == np.uint8
            and everything[i].ndim == 3
            and everything[i].shape[2] == 3
        )
    assert len({s.fingerprint() for s in (train, held_out, everything)}) == 3
    with pytest.raises(ValueError):
        # Shared by all readers, so not to be changed by one.
        train[0][0, 0, 0] = 1


def test_embedded_pictures_are_those_of_skimage():
    skimage_data = pytest.importorskip("skimage.data")
    source = Embedded("all")
    for i in range(len(source)):
        reference = getattr(skimage_data, pathlib.PurePosixPath(source.name(i)).stem)()
        assert source[i].shape == reference.shape
        assert np.abs(source[i].astype(int) - reference).max() <= (
            3 if source.name(i).endswith("jpg") else 0
        )


def test_embedded_without_skimage_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install"):
        Embedded("train")
