"""Weights by hf://: the real client of huggingface_hub, and a stand-in for the hub on 127.0.0.1."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import hub as stand_in
import numpy as np
import pytest
import web_server

import ipt_jax
from ipt_jax.cli.app import main
from ipt_jax.errors import DownloadError, WeightsError
from ipt_jax.weights import hub
from ipt_jax.weights.default import SHIPPED

FOLDER = SHIPPED / "ipt_small"
FILES = {file.name: file.read_bytes() for file in FOLDER.iterdir()}


@pytest.mark.parametrize(
    "text, parts",
    [
        ("hf://org/name", ("org/name", "", "", "")),
        ("hf:/org/name", ("org/name", "", "", "")),
        ("hf://org/na-me.1@v1.0", ("org/na-me.1", "v1.0", "", "")),
        ("hf://org/name/a/b.pt", ("org/name", "", "a/b.pt", "")),
        ("hf://org/name@refs%2Fpr%2F1/a/", ("org/name", "refs/pr/1", "a", "")),
        (f"hf://org/name#sha256={'A' * 64}", ("org/name", "", "", "a" * 64)),
    ],
)
def test_an_address_is_taken_apart(text, parts):
    assert hub.parse_address(text) == hub.HubAddress(*parts)


@pytest.mark.parametrize(
    "text", ["hf://name", "hf://org/name/../a", "hf://org/name/a//b", "hf://", "hf://org/name@/a"]
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(WeightsError, match=r"hf://ORG/NAME\[@REVISION\]") as raised:
        hub.parse_address(text)
    assert text in str(raised.value)


def test_without_the_package_its_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["restore", "setup.py", "--task", "sr2", "--weights", "hf://org/name"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("ipt: hf://org/name: ") and "[hub]" in line
    # The other weights are listed.
    assert main(["weights"]) == 0 and "ipt_small (shipped" in capsys.readouterr().out


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A stand-in with the shipped weights as org/small, and a client with an empty cache."""
    pytest.importorskip("huggingface_hub", reason="needs the extra hub")
    with stand_in.running() as running:
        repo = running.repos["org/small"] = stand_in.Repo()
        repo.commit(FILES)
        running.set_up_client(monkeypatch, tmp_path / "cache")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        yield running


def downloads(server):
    """Returns the names of the files that were downloaded since the last call."""
    asked, server.asked[:] = list(server.asked), []
    return [
        path.rsplit("/", 1)[-1] for path in asked if path.startswith("GET /") and "api" not in path
    ]


def cached_model(folder):
    """Returns the file of tensors in the client's cache."""
    (file,) = (folder / "cache").glob("hub/models--*/snapshots/*/weights.safetensors")
    return file


@pytest.mark.slow
def test_a_weights_folder_is_loaded_once_and_listed(server, capsys):
    model = ipt_jax.load("hf://org/small")
    assert model.provenance["address"] == "hf://org/small"
    want = ipt_jax.load("ipt_small")
    assert np.array_equal(
        model.params["task_sr2"]["embedding"], want.params["task_sr2"]["embedding"]
    )
    assert len(downloads(server)) == 2
    hub.fetch("hf://org/small/model.json")
    assert not downloads(server)
    assert main(["weights"]) == 0
    printed = capsys.readouterr().out
    listed = printed[printed.index("hf://org/small (from a hub, 4.") :]
    assert (
        "tasks: sr2, sr3" in listed and "CC BY-SA 4.0" in listed and "PSNR-Y: Set5/sr2 3" in listed
    )


@pytest.mark.slow
def test_revisions_folders_and_files(server):
    repo = server.repos["org/small"]
    first = repo.branches["main"]
    repo.commit({f"sub/{name}": data for name, data in FILES.items()}, "dev")
    repo.commit({"a.npz": b"PK12", "b.npz": b"PK34"}, "files")
    repo.commit({"only.pt": b"PK56"}, "one")
    assert hub.fetch("hf://org/small@dev/sub").name == "sub"
    assert hub.fetch(f"hf://org/small@{first}").name == first
    assert hub.fetch("hf://org/small@files/b.npz").read_bytes() == b"PK34"
    assert hub.fetch("hf://org/small@one").read_bytes() == b"PK56"
    with pytest.raises(WeightsError, match=r"several files; add the name.*: a.npz, b.npz$"):
        hub.fetch("hf://org/small@files")
    with pytest.raises(WeightsError, match=r"no file or folder c.npz.*did you mean '.\.npz'"):
        hub.fetch("hf://org/small@files/c.npz")
    repo.commit({"notes.txt": b"x"}, "text")
    with pytest.raises(WeightsError, match=r"neither a weights folder.*in the repository: notes"):
        hub.fetch("hf://org/small@text")


@pytest.mark.slow
@pytest.mark.parametrize(
    "address, message",
    [
        ("hf://org/none", "there is no repository org/none at http.*HF_TOKEN"),
        ("hf://org/private", "or it is private.*HF_TOKEN"),
        ("hf://org/gated", "gated; ask for access at http://127.*/org/gated, then set HF_TOKEN"),
        ("hf://org/small@v9", "no revision 'v9'.*/org/small/commits"),
    ],
)
def test_what_is_not_there_or_not_allowed(server, address, message):
    server.repos["org/private"] = stand_in.Repo(private=True)
    server.repos["org/gated"] = stand_in.Repo(gated=True)
    with pytest.raises(WeightsError, match=message) as raised:
        hub.fetch(address)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.slow
def test_a_token_opens_a_private_repository(server, monkeypatch):
    repo = server.repos["org/private"] = stand_in.Repo(private=True)
    repo.commit(FILES)
    monkeypatch.setenv("HF_TOKEN", server.token)
    assert (hub.fetch("hf://org/private") / "model.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "status, error, message",
    [
        (401, WeightsError, "HF_TOKEN"),
        (403, WeightsError, r"denies access \(403\); set HF_TOKEN"),
        (429, DownloadError, "status 429; wait"),
        (500, DownloadError, "status 500; wait"),
    ],
)
def test_a_status_is_explained(server, status, error, message):
    server.status = status
    with pytest.raises(error, match=message) as raised:
        hub.fetch("hf://org/small")
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.slow
def test_damage_on_the_way_and_in_the_cache(server, tmp_path, caplog):
    server.damage = 1
    folder = hub.fetch("hf://org/small")
    assert "damaged; it is downloaded again" in caplog.text
    assert (folder / "weights.safetensors").read_bytes() == FILES["weights.safetensors"]
    file = cached_model(tmp_path)
    file.resolve().write_bytes(FILES["weights.safetensors"][:-1] + b"x")
    hub.fetch("hf://org/small")
    assert file.read_bytes() == FILES["weights.safetensors"]
    # A file that Git stores is compared by Git's hash.
    (file.parent / "model.json").resolve().write_bytes(FILES["model.json"] + b" ")
    hub.fetch("hf://org/small")
    assert (file.parent / "model.json").read_bytes() == FILES["model.json"]
    server.damage = 2
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(WeightsError, match=r"not the file that the hub describes.*SHA-256"):
        hub.fetch("hf://org/small")


@pytest.mark.slow
def test_the_checksum_that_the_user_demands(server):
    import hashlib

    right = hashlib.sha256(FILES["weights.safetensors"]).hexdigest()
    assert hub.fetch(f"hf://org/small#sha256={right}")
    with pytest.raises(WeightsError, match=f"its SHA-256 is {right}, not 0000"):
        hub.fetch(f"hf://org/small#sha256={'0' * 64}")


@pytest.mark.slow
def test_a_download_that_ends_early_leaves_no_weights(server, tmp_path):
    server.short = True
    with pytest.raises(DownloadError, match="ended early") as raised:
        hub.fetch("hf://org/small")
    assert len(str(raised.value).splitlines()) == 1
    assert not list((tmp_path / "cache").rglob("weights.safetensors"))


@pytest.mark.slow
def test_without_a_network_the_cache_is_used(server, tmp_path, monkeypatch, caplog):
    server.repos["org/small"].branches["v1"] = server.repos["org/small"].branches["main"]
    folder = hub.fetch("hf://org/small")
    monkeypatch.setenv("HF_ENDPOINT", web_server.closed_port())
    assert hub.fetch("hf://org/small") == folder
    assert "cannot be reached" in caplog.text and "in the cache is used" in caplog.text
    assert hub.fetch(f"hf://org/small@{folder.name[:10]}") == folder
    for address in ("hf://org/small@v1", "hf://org/other"):
        with pytest.raises(DownloadError, match=f"{address}: http.*cannot be reached") as raised:
            hub.fetch(address)
        assert len(str(raised.value).splitlines()) == 1
    cached_model(tmp_path).resolve().write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"in the cache is damaged.*delete"):
        hub.fetch("hf://org/small")


@pytest.mark.slow
def test_the_program_offline(server, tmp_path):
    """The client reads its environment when it is imported, so this needs a new process."""
    hub.fetch("hf://org/small")
    server.asked.clear()
    command = [sys.executable, "-m", "ipt_jax", "export", "--format", "folder", "--task", "sr2"]
    variables = {**os.environ, "HF_HUB_OFFLINE": "1"}
    for address, code, said in (
        ("hf://org/small", 0, "tasks sr2"),
        ("hf://org/other", 1, "ipt: hf://org/other: HF_HUB_OFFLINE is set, and the cache has no"),
    ):
        words = ["--weights", address, "--out", str(tmp_path / "out")]
        done = subprocess.run(
            [*command, *words, "--overwrite"], capture_output=True, text=True, env=variables
        )
        assert done.returncode == code and said in done.stdout + done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not server.asked


@pytest.mark.slow
def test_no_network_is_one_line_and_exit_code_1(server, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", web_server.closed_port())
    words = ["restore", "setup.py", "--task", "sr2", "--weights", "hf://org/small"]
    assert main(words) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("ipt: hf://org/small: http://127.0.0.1:") and "HF_ENDPOINT" in line
