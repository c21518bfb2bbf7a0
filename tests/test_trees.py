"""Nested dicts and their flat forms."""

from __future__ import annotations

import pytest
from ml_collections import ConfigDict

from ipt_jax import trees

TREE = {"body": {"mlp": {"kernel": 1, "bias": [2]}, "position": 3}, "lora": 4}
PATHS = {"body/mlp/kernel": 1, "body/mlp/bias": [2], "body/position": 3, "lora": 4}


def test_paths_of_a_tree_and_back():
    assert dict(trees.paths(TREE)) == PATHS
    assert trees.nested(PATHS) == TREE
    assert list(dict(trees.paths(TREE))) == list(PATHS)


def test_dotted_keys_of_configs():
    config = ConfigDict({"steps": 3, "data": {"dir": "x", "shape": (1, 2)}})
    assert trees.flatten(config) == {"steps": 3, "data.dir": "x", "data.shape": (1, 2)}


@pytest.mark.parametrize(
    "pattern", ["body", "body/", "body/encoder", "body/*", "*/self_attention", "*qkv", "bod[y]"]
)
def test_patterns_that_match_a_path_or_a_parent(pattern):
    assert trees.matches("body/encoder/self_attention/qkv", ["nothing", pattern])


@pytest.mark.parametrize("pattern", ["bod", "encoder", "*/tail", "body/decoder", ""])
def test_patterns_that_do_not_match(pattern):
    assert not trees.matches("body/encoder/self_attention/qkv", [pattern])
