"""`ipt serve`: the page in a real browser, and files that cannot be read through it."""

from __future__ import annotations

import http.client
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import chromium
import numpy as np
import pytest
import runs
from PIL import Image

import ipt_jax
from ipt_jax.cli.app import main, make_parser
from ipt_jax.errors import DecodeError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "run"
    runs.make_run(folder, tasks=("sr2", "denoise50"))
    return ipt_jax.load(str(folder))


def test_by_default_the_page_listens_on_this_machine_only():
    options = make_parser().parse_args(["serve"])
    assert options.host == "127.0.0.1" and options.max_megapixels == 16


def test_without_gradio_the_message_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert (
        main(["serve", "--weights", "x"]) == 2
        and "pip install -e '.[serve]'" in capsys.readouterr().err
    )


def test_before_and_after_are_of_one_size_and_errors_name_no_file(model, tmp_path):
    from ipt_jax.serve import uploads

    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "in.png")
    seen = []
    (before, shown), after, summary = uploads.restore_upload(
        model, tmp_path / "in.png", "sr2", tmp_path, 10_000, seen.append
    )
    # A small result is shown as it is. The progress ends with all tiles.
    assert shown == after and seen and seen[-1] == (model.tiles(20, 30, "sr2"),) * 2
    assert summary == "30x20 to 60x40" and Image.open(before).size == Image.open(after).size == (
        60,
        40,
    )
    np.testing.assert_array_equal(np.asarray(Image.open(after)), model.restore(image, "sr2"))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    for name, limit in (("in.png", 500), ("bad.png", 10_000)):
        with pytest.raises(DecodeError) as caught:
            uploads.restore_upload(model, tmp_path / name, "sr2", tmp_path, limit)
        assert str(tmp_path) not in str(caught.value)


def test_a_large_result_is_shown_reduced_and_downloaded_whole(model, tmp_path, monkeypatch):
    from ipt_jax.serve import uploads

    monkeypatch.setattr(uploads, "SHOWN", 1000)
    y, x = np.mgrid[:40, :50]
    image = np.stack([4 * x, 5 * y, x + y], axis=2).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "in.png")
    (before, shown), after, _ = uploads.restore_upload(
        model, tmp_path / "in.png", "sr2", tmp_path, 10_000
    )
    # 100x80 pixels are reduced by 3 on each side.
    assert Image.open(before).size == Image.open(shown).size == (33, 26)
    whole = np.asarray(Image.open(after))
    np.testing.assert_array_equal(whole, model.restore(image, "sr2"))
    blocks = whole[:78, :99].reshape(26, 3, 33, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(np.asarray(Image.open(shown)), blocks, atol=1)


@pytest.fixture(scope="module")
def address(model, tmp_path_factory):
    pytest.importorskip("gradio", reason="needs the extra serve")

    from ipt_jax.serve.page import start

    close, address = start(model, tmp_path_factory.mktemp("serve"), "127.0.0.1", 0, 100_000)
    yield address.rstrip("/")
    close()


def fetch(url: str, body: object = None) -> tuple[int, bytes]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.slow
def test_no_file_of_the_machine_can_be_read(address, tmp_path):
    secret = tmp_path / "secret.png"
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(secret)
    here = pathlib.Path("README.md").resolve()
    for path in (
        "/etc/passwd",
        secret,
        here,
        "README.md",
        "../../../etc/passwd",
        f"file://{secret}",
        "http://127.0.0.1:1/",
    ):
        for prefix in ("/gradio_api/file=", "/file=", "/gradio_api/file/"):
            assert fetch(f"{address}{prefix}{path}")[0] in (403, 404, 405), path
    # The request names the file as if it had been uploaded.
    given = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    code, _ = fetch(
        f"{address}/gradio_api/queue/join?",
        {"data": [given, "sr2"], "fn_index": 0, "session_hash": "s"},
    )
    assert code == 200
    _, said = fetch(f"{address}/gradio_api/queue/data?session_hash=s")
    assert (
        b'"success":false' in said.replace(b" ", b"")
        and b"passwd" not in said
        and str(tmp_path).encode() not in said
    )
    assert str(tmp_path).encode() not in fetch(f"{address}/config")[1]


def send(address: str, path: str, body: bytes | None = None, **headers: str) -> int:
    """Returns the status of the answer to a request with any headers."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    try:
        connection.request(
            "GET" if body is None else "POST",
            path,
            body,
            {name.replace("_", "-"): value for name, value in headers.items()},
        )
        return connection.getresponse().status
    finally:
        connection.close()


def upload(address: str, size: int, **headers: str) -> int:
    content = (
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        + bytes(np.random.default_rng(size).integers(0, 256, size).astype(np.uint8))
        + b"\r\n--x--\r\n"
    )
    kind = "multipart/form-data; boundary=x"
    return send(address, "/gradio_api/upload", content, Content_Type=kind, **headers)


@pytest.mark.slow
def test_requests_of_other_sites_are_refused(address):
    here = address.removeprefix("http://")
    port = here.rpartition(":")[2]
    for host in (here, f"localhost:{port}", f"LOCALHOST:{port}", f"192.168.1.9:{port}"):
        assert send(address, "/config", Host=host) == 200, host
        assert send(address, "/config", Host=host, Origin=f"http://{host}") == 200, host
        assert upload(address, 9, Host=host, Origin=f"http://{host}") == 200, host
    for host in (f"evil.example:{port}", "evil.example", "", f"127.0.0.1.evil.example:{port}"):
        assert send(address, "/config", Host=host) == 403, host
        assert upload(address, 9, Host=host) == 403, host
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", f"http://x@{here}.example"):
        assert upload(address, 9, Origin=origin) == 403, origin


@pytest.mark.slow
def test_uploads_have_a_total_limit(model, tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="needs the extra serve")
    from ipt_jax.serve import uploads
    from ipt_jax.serve.page import start

    # Each upload has 1 MB, and all together may have 32 times 1.04 MB.
    # A page sets its folder for the process, and the page of the other tests needs its own again.
    monkeypatch.setenv("GRADIO_TEMP_DIR", os.environ.get("GRADIO_TEMP_DIR", ""))
    close, address = start(model, tmp_path, "127.0.0.1", 0, 10)
    address = address.rstrip("/")
    try:
        codes = [upload(address, 1_000_000 + i) for i in range(36)]
        assert codes.count(200) >= 30 and codes[-1] == 413 and set(codes) == {200, 413}, codes
        assert uploads.bytes_in(tmp_path) <= 33 * (40 + (1 << 20))
        for entry in (tmp_path / "uploads").iterdir():
            os.utime(entry, (1, 1))
        assert upload(address, 999_999) == 200
    finally:
        close()


SERVER = """
import sys
from ipt_jax.cli.app import main
sys.exit(main(["serve", "--weights", sys.argv[1], "--port", "0"]))
"""


@pytest.mark.slow
def test_nothing_is_left_after_a_signal_nor_after_the_next_start(tmp_path):
    pytest.importorskip("gradio", reason="needs the extra serve")
    runs.make_run(tmp_path / "run", tasks=("sr2",))
    (tmp_path / "tmp").mkdir()
    left = []
    # Under nohup, tests ignore SIGHUP, and a process inherits that.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP):
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(tmp_path / "run")],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        )
        try:
            address = server.stdout.readline().split()[0].rstrip("/")
            assert upload(address, 1000) == 200
            left.append(list((tmp_path / "tmp").glob("ipt-serve-*")))
            server.send_signal(number)
            code = server.wait(timeout=60)
        finally:
            server.kill()
            server.stdout.close()
        assert code == (-number if number == signal.SIGKILL else 0)
    signal.signal(signal.SIGHUP, before)
    # The second start removed what the killed one had left.
    assert [len(folders) for folders in left] == [1, 1, 1] and left[0] != left[1]
    assert not list((tmp_path / "tmp").glob("ipt-serve-*"))


@pytest.mark.slow
@pytest.mark.skipif(chromium.BROWSER is None, reason="needs Chromium")
def test_an_image_is_restored_through_the_page(address, model, tmp_path):
    image = np.random.default_rng(1).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((400, 400, 3), np.uint8)).save(tmp_path / "large.png")
    with chromium.opened(tmp_path / "profile") as page:
        page.go(address)
        page.wait(
            "!!document.querySelector('#upload input[type=file]') && "
            "!!document.querySelector('#restore')"
        )
        page.upload("#upload input[type=file]", tmp_path / "photo.png")
        page.wait("document.querySelector('#upload').innerText.includes('photo')")
        # The image is shown before it is restored, and tasks are said in words.
        page.wait("(document.querySelector('#preview img')?.naturalWidth || 0) == 50", 60)
        assert "twice as large" in page.run("document.querySelector('#task input').value")
        page.run("document.querySelector('#restore').click()")
        page.wait(
            "(document.querySelector('#said')?.innerText || '').includes('50x40 to 100x80')", 120
        )
        sources = page.wait(
            "(x => x.length >= 2 && x)([...document.querySelectorAll('#slider img')].map(i => "
            "i.src))"
        )
        assert len(set(sources)) >= 2
        link = page.wait(
            "[...document.querySelectorAll('a')].map(a => a.href).find(href => "
            "href.includes('photo_sr2.png'))"
        )
        page.screenshot(tmp_path / "page.png")
        status, data = fetch(link)
        assert status == 200
        np.testing.assert_array_equal(
            np.asarray(Image.open(io.BytesIO(data))), model.restore(image, "sr2")
        )
        for name, message in (
            ("bad.png", "Not a JPEG"),
            ("large.png", "more than the limit of 100,000"),
        ):
            page.go(address)
            page.wait("!!document.querySelector('#upload input[type=file]')")
            page.upload("#upload input[type=file]", tmp_path / name)
            page.wait(
                f"document.querySelector('#upload').innerText.includes('{name.split('.')[0]}')"
            )
            page.run("document.querySelector('#restore').click()")
            page.wait(f"document.body.innerText.includes({message!r})", 60)


def test_the_page_says_that_an_animation_is_shown_by_its_first_frame(model, tmp_path):
    from ipt_jax.serve import uploads

    frames = [Image.new("RGB", (24, 20), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    _, after, summary = uploads.restore_upload(model, tmp_path / "a.gif", "sr2", tmp_path, 10_000)
    assert "the first of 3 frames" in summary and Image.open(after).size == (48, 40)
