"""Names of folders: each works from the save to the restored state, or is refused by name."""

from __future__ import annotations

import os
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ipt_jax import storage
from ipt_jax.checkpoints.checkpoints import Checkpoints
from ipt_jax.errors import ConfigError

STATE = {"x": jnp.arange(5.0)}

# What shells, patterns, URLs, JSON and libraries give a meaning to.
SPECIAL = r"""[]{}*?\%#&|:;=~@!$`^<>()+,.-_'" """ + "\n\r\t\x01\x7f\x85\u2028\u200b\u00e9\u65e5"

NAMES = st.text(
    st.one_of(st.sampled_from(SPECIAL), st.characters(exclude_characters="/\0")),
    min_size=1,
    max_size=40,
).filter(lambda name: name not in (".", ".."))


def save_and_restore(folder: str) -> None:
    """Saves, restores and replaces a checkpoint, with new objects as new processes have them."""
    for step in (1, 2):
        with Checkpoints(folder, keep=1) as checkpoints:
            checkpoints.save(step, STATE, {})
        with Checkpoints(folder, keep=1) as checkpoints:
            assert checkpoints.steps() == [step]
            np.testing.assert_array_equal(checkpoints.restore(STATE)[0]["x"], STATE["x"])


def works_or_is_refused(root: pathlib.Path, name: str) -> bool:
    """Returns whether a name works. It fails if a name neither works nor is refused."""
    workdir = os.path.join(root, name)
    try:
        storage.check_workdir(workdir)
    except ConfigError as error:
        assert not list(root.iterdir())
        # The message can be printed, whatever the name is.
        str(error).encode()
        return False
    save_and_restore(os.path.join(workdir, "checkpoints"))
    assert [os.fsencode(path.name) for path in root.iterdir()] == [os.fsencode(name)]
    return True


@pytest.mark.parametrize(
    "name",
    [
        "lr=[1,2]",
        "[1]",
        "a]b[",
        "{a,b}",
        "*",
        "?",
        "%",
        "%2F%00",
        "a b",
        " a ",
        "'\"",
        "a\nb",
        "\x01",
        "\u00e9\u65e5\U0001f600",
        "x" * 200,
        "\u00e9" * 127,
        "~",
        "-a",
        "a.orbax-checkpoint-tmp-1",
        "gs:a",
        "s3:",
        "C:",
        "gs",
        "a@5",
    ],
)
def test_names_that_work(tmp_path, name):
    assert works_or_is_refused(tmp_path, name)


REFUSED = [
    ("a\\b", "contains a backslash"),
    ("\\", "contains a backslash"),
    ("a\udce9", "is not UTF-8 text"),
    ("\ud800", "is not UTF-8 text"),
    ("x" * 256, "is too long: a name may have 255 bytes"),
    ("\u00e9" * 128, "is too long: a name may have 255 bytes"),
    ("x/" * 2000, "is too long: .* the path"),
    ("a\0b", "is not a path"),
    ("gs:", "takes for the begin of a gs:// address"),
    ("xgs:/a", "has a folder 'xgs:'"),
    ("/gs/run", "lies in /gs, which etils, .* takes for gs://"),
    ("/s3/run", "takes for s3://"),
]


@pytest.mark.parametrize(("name", "said"), REFUSED)
def test_names_that_are_refused(tmp_path, name, said):
    with pytest.raises(ConfigError, match=said):
        storage.check_workdir(os.path.join(tmp_path, name))
    assert not list(tmp_path.iterdir())


def check_any_name(tmp_path_factory, name: str) -> None:
    root = tmp_path_factory.mktemp("names")
    works_or_is_refused(root, name)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=NAMES)
@example(name="[\u00e9]*?%\n\u2028")
@example(name="tags:")
def test_any_name_works_or_is_refused(tmp_path_factory, name):
    check_any_name(tmp_path_factory, name)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=NAMES)
def test_any_of_1000_names_works_or_is_refused(tmp_path_factory, name):
    check_any_name(tmp_path_factory, name)


def test_links_relative_paths_and_home(tmp_path, monkeypatch):
    (tmp_path / "real" / "below").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "real" / "below")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for path, found in (
        ("run", "here/run"),
        ("./run2", "here/run2"),
        ("link", "real/below"),
        # The parent of the link's target, as the kernel has it.
        ("link/../run", "real/run"),
        ("../run", "run"),
        ("~/run", "home/run"),
        # A folder named "~".
        ("./~/run", "here/~/run"),
    ):
        storage.check_workdir(path)
        folder = storage.expanded(path)
        save_and_restore(os.fspath(folder / "checkpoints"))
        assert (tmp_path / found / "checkpoints" / "2").is_dir(), path
        assert storage.absolute(folder) == storage.absolute(path)
    (tmp_path / "here" / "dangling").symlink_to("nowhere")
    with pytest.raises(ConfigError, match="is a link to 'nowhere', which does not exist"):
        storage.check_workdir("dangling")


def test_paths_of_object_stores():
    for path in ("gs://bucket/run", "gs://bucket/~/a b/%/\u00e9"):
        storage.check_workdir(path)
        assert os.fspath(storage.absolute(path)) == path
        assert os.fspath(Checkpoints(path).directory) == path
        assert storage.absolute(epath.Path(path)) == epath.Path(path)
    for name in ("[1]", "a*", "a?", "a#b", "a\\b", "a\nb"):
        with pytest.raises(ConfigError, match="which clients of object stores read as a pattern"):
            storage.check_workdir(f"gs://bucket/{name}")
