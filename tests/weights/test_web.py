"""Weights by https://: cache, checks and one line with advice. The server is on 127.0.0.1."""

from __future__ import annotations

import gzip
import hashlib
import json

import numpy as np
import pytest
import web_server

import ipt_jax
from ipt_jax.cli.app import main, make_parser
from ipt_jax.errors import DownloadError, WeightsError
from ipt_jax.weights import web
from ipt_jax.weights.default import SHIPPED

FOLDER = SHIPPED / "ipt_small"
# Looks like a safetensors file: the length of a header, and its first character.
FILE = (16).to_bytes(8, "little") + b"{}" + b" " * 14 + b"data" * 100
SHA256 = hashlib.sha256(FILE).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "ipt_jax" / "downloads"


def whole(reply):
    """Answers with the file, or that it has not changed."""
    same = reply.headers.get("If-None-Match") == '"1"'
    reply.answer(304 if same else 200, b"" if same else FILE, ETag='"1"')


def parts_in(folder):
    return [file for file in folder.rglob("*") if file.name.endswith(".part")]


def test_a_file_is_downloaded_once_and_asked_for_again(cache):
    with web_server.answering(whole) as (address, asked):
        first = web.fetch(f"{address}/a/w.safetensors")
        assert first.read_bytes() == FILE and first.is_relative_to(cache)
        written = first.stat().st_mtime_ns
        assert web.fetch(f"{address}/a/w.safetensors") == first
        assert first.stat().st_mtime_ns == written and len(asked) == 2
        # With the checksum, the server need not be asked.
        assert web.fetch(f"{address}/a/w.safetensors#sha256={SHA256.upper()}") == first
        assert len(asked) == 2
        # A damaged copy is replaced.
        first.write_bytes(FILE[:-1] + b"x")
        assert web.fetch(f"{address}/a/w.safetensors").read_bytes() == FILE
        # Another address has another copy.
        assert web.fetch(f"{address}/b/w.safetensors") != first
    assert not parts_in(cache)


def test_the_copy_is_used_without_a_network(caplog):
    with web_server.answering(whole) as (address, _):
        file = web.fetch(f"{address}/w.safetensors")
    assert web.fetch(f"{address}/w.safetensors") == file
    assert "cannot be reached" in caplog.text and "the copy of 2" in caplog.text
    with pytest.raises(DownloadError, match="cannot be reached"):
        web.fetch(f"{address}/w.safetensors#sha256={'0' * 64}")


def test_the_copy_is_used_while_the_server_fails():
    fails = []
    with web_server.answering(lambda r: r.answer(503) if fails else whole(r)) as (address, _):
        file = web.fetch(f"{address}/w.safetensors")
        fails.append(True)
        assert web.fetch(f"{address}/w.safetensors") == file


def test_a_packed_answer_is_unpacked():
    """The announced length is that of the packed bytes."""
    packed = gzip.compress(FILE)
    with web_server.answering(lambda reply: reply.answer(200, packed, Content_Encoding="gzip")) as (
        address,
        _,
    ):
        assert web.fetch(f"{address}/w.safetensors").read_bytes() == FILE


def test_a_new_file_replaces_the_copy():
    content = [FILE]

    def get(reply):
        reply.answer(200, content[0], Last_Modified="now")

    with web_server.answering(get) as (address, _):
        web.fetch(f"{address}/w.safetensors")
        content[0] = FILE + b"more"
        assert web.fetch(f"{address}/w.safetensors").read_bytes() == FILE + b"more"


def cut_short(reply):
    """Announces more bytes than it sends."""
    reply.send_response(200)
    reply.send_header("Content-Length", str(len(FILE) + 1000))
    reply.end_headers()
    reply.wfile.write(FILE)
    reply.close_connection = True


@pytest.mark.parametrize(
    "get, error, message",
    [
        (lambda r: r.answer(404), WeightsError, r"there is no such file \(404\)"),
        (lambda r: r.answer(403), WeightsError, r"denies access \(403\).*login"),
        (lambda r: r.answer(503), DownloadError, "status 503; wait"),
        (lambda r: r.answer(418), DownloadError, "status 418$"),
        (lambda r: r.answer(200, b"\n <!DOCTYPE html><html>"), WeightsError, "a web page came"),
        (lambda r: r.answer(200, b"<p>", Content_Type="text/html"), WeightsError, "a web page"),
        (lambda r: r.answer(200, b"version https://git-lfs.git"), WeightsError, "of Git LFS"),
        (
            lambda r: r.answer(200, b'{"error": 1}', Content_Type="application/json"),
            WeightsError,
            "not a file of weights .*calls it application/json",
        ),
        (lambda r: r.answer(200, b""), WeightsError, "an empty file"),
        (lambda r: r.answer(200, FILE, Content_Length=web.LARGEST + 1), WeightsError, "the limit"),
        (cut_short, DownloadError, "ended early.*repeat the command"),
        (
            lambda r: r.answer(302, Location="http://example.org/w.safetensors"),
            WeightsError,
            "http://example.org/w.safetensors: http:// is not encrypted",
        ),
    ],
)
def test_what_is_no_weights_file_leaves_nothing(get, error, message, cache):
    with web_server.answering(get) as (address, _), pytest.raises(error, match=message) as raised:
        web.fetch(f"{address}/w.safetensors")
    assert len(str(raised.value).splitlines()) == 1
    assert not [file for file in cache.rglob("*") if file.is_file()]


@pytest.mark.parametrize("size", [len(FILE) - 1, len(FILE) + 1])
def test_another_number_of_bytes_than_announced_is_refused(size, tmp_path):
    """requests compares the number itself; a bucket's client does not."""
    address = web.Address("gs://bucket/w.npz")
    with pytest.raises(DownloadError, match=f"after {len(FILE)} of {size} bytes"):
        web.save([FILE], tmp_path / "w.npz", address, size=size)
    assert not list(tmp_path.iterdir())


def test_another_checksum_is_refused(cache):
    with (
        web_server.answering(whole) as (address, _),
        pytest.raises(WeightsError, match=f"its SHA-256 is {SHA256}, not {'0' * 64}"),
    ):
        web.fetch(f"{address}/w.safetensors#sha256={'0' * 64}")
    assert not [file for file in cache.rglob("*") if file.is_file()]


def test_a_server_that_is_silent_is_not_waited_for(monkeypatch):
    import threading

    end = threading.Event()
    monkeypatch.setattr(web, "TIMEOUTS", (0.2, 0.2))
    with web_server.answering(lambda r: end.wait(20)) as (address, _):
        with pytest.raises(DownloadError, match="did not answer in time"):
            web.fetch(f"{address}/w.safetensors")
        end.set()


@pytest.mark.parametrize(
    "address, message",
    [
        ("http://example.org/w.npz", "not encrypted.*use https://"),
        ("https:///w.npz", "names no host"),
        ("https://host/", "names no file"),
        ("https://host:port/w.npz", "not an address"),
        ("https://host/w.npz#sha256=12", "64 hexadecimal digits"),
        ("https://host/w.npz#v2", "64 hexadecimal digits"),
    ],
)
def test_wrong_addresses(address, message):
    with pytest.raises(WeightsError, match=message):
        web.fetch(address)


def test_passwords_and_signatures_are_kept_secret(cache):
    with web_server.answering(whole) as (address, asked):
        secret = address.replace("//", "//me:word@") + "/w.safetensors?signature=1234"
        web.fetch(secret)
        assert asked == ["/w.safetensors?signature=1234"]
    (record,) = cache.glob("*/source.json")
    assert json.loads(record.read_text())["w.safetensors"]["address"] == address + "/w.safetensors"
    assert "word" not in record.read_text() and "1234" not in record.read_text()
    with pytest.raises(DownloadError) as raised:
        web.fetch(web_server.closed_port().replace("//", "//me:word@") + "/w.npz?signature=1234")
    assert "word" not in str(raised.value) and "1234" not in str(raised.value)


def shipped(reply):
    """Answers with a file of the shipped weights folder."""
    file = FOLDER / reply.path.partition("?")[0].rsplit("/", 1)[-1]
    reply.answer(200 if file.exists() else 404, file.read_bytes() if file.exists() else b"")


def test_a_weights_folder_is_loaded_and_listed(capsys, tmp_path):
    with web_server.answering(shipped) as (address, _):
        model = ipt_jax.load(f"{address}/ipt/model.json")
        assert model.provenance["address"] == f"{address}/ipt/model.json"
        want = ipt_jax.load("ipt_small")
        assert np.array_equal(
            model.params["task_sr2"]["embedding"], want.params["task_sr2"]["embedding"]
        )
        # The tasks of a weights folder are not in its file of tensors.
        words = ["restore", "setup.py", "--task", "sr2", "--weights"]
        assert main([*words, f"{address}/ipt/none.safetensors"]) == 2
    assert f"{address}/ipt/none.safetensors: there is no such file" in capsys.readouterr().err
    assert main(["weights"]) == 0
    printed = capsys.readouterr().out
    assert f"{address}/ipt/model.json (downloaded, 4." in printed
    listed = printed[printed.index("(downloaded") :]
    assert (
        "tasks: sr2, sr3" in listed and "CC BY-SA 4.0" in listed and "PSNR-Y: Set5/sr2 3" in listed
    )


def test_no_network_is_one_line_and_exit_code_1(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    address = f"{web_server.closed_port()}/w.safetensors"
    words = ["export", "--format", "npz", "--out", "x.npz", "--weights", address]
    assert main(words) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"ipt: weights {address}: the server cannot be reached (Connection ref")
    assert "copy the file to this machine" in line


def test_reports_and_cards_have_addresses_without_secrets():
    from ipt_jax.cli import evaluate
    from ipt_jax.export.model_card import _without_paths

    config = {"init_from": "https://me:word@host/a/w.npz?signature=1234", "data": {"dir": "/a/b"}}
    assert _without_paths(config) == {"init_from": "https://host/a/w.npz", "data": {"dir": "b"}}
    assert _without_paths({"init_from": "hf://org/name@v1"}) == {"init_from": "hf://org/name@v1"}
    with web_server.answering(shipped) as (address, _):
        words = ["evaluate", "--data", ".", "--weights", f"{address}/model.json?signature=1234"]
        options = make_parser().parse_args(words)
        assert evaluate._open_candidate(options).name == f"{address}/model.json"
