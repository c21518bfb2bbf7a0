"""`ipt doctor` shows what there is and what is wrong, but no secrets."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple

from ipt_jax.cli import doctor
from ipt_jax.cli.app import main
from ipt_jax.versions import versions


def test_it_shows_versions_devices_and_sets_but_no_secrets(capsys, monkeypatch, tmp_path):
    folder = tmp_path / "imagenet2012" / "5.1.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(json.dumps({"fileFormat": "array_record"}))
    monkeypatch.setenv("MY_SECRET_TOKEN", "hunter2")
    code = main(["doctor", "--data-dir", str(tmp_path)])
    printed = capsys.readouterr().out
    assert code == (0 if "nothing wrong found" in printed else 1)
    for name, version in versions().items():
        assert f"{name} " in printed and version in printed
    assert "8 x cpu (cpu)" in printed and "XLA_FLAGS" in printed
    assert "imagenet2012/5.1.0" in printed and "array_record" in printed
    assert "hunter2" not in printed


def test_what_is_wrong_is_listed_and_is_the_exit_code(capsys, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(64 * 2**20, 0, 64 * 2**20))
    assert main(["doctor"]) == 1
    wrong = capsys.readouterr().out.split("wrong:")[1]
    assert "/dev/shm has only 64 MB free" in wrong or not os.path.isdir("/dev/shm")
    assert "disk has only 0.1 GB free" in wrong


def test_packages_that_are_missing_name_their_extra(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    rows = doctor.optional()
    assert rows["torch"] == (
        "no (for the authors' .pt files: pip install -e '.[torch]' in a clone of this package)"
    )


def test_damaged_set_descriptions_are_said(tmp_path):
    folder = tmp_path / "div2k" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{")
    assert "damaged" in doctor.data_sets(str(tmp_path))["  div2k/1.0.0"]
    assert doctor.data_sets(str(tmp_path / "none")) == {str(tmp_path / "none"): "not there"}


def test_no_devices_is_said(monkeypatch):
    import jax

    def fail() -> None:
        raise RuntimeError("Unable to initialize backend 'cuda'\nmore")

    monkeypatch.setattr(jax, "devices", fail)
    wrong: list[str] = []
    assert doctor.devices(wrong) == {"jax": "no devices"}
    assert wrong == ["jax starts no devices: Unable to initialize backend 'cuda'"]
