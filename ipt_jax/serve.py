"""The local page on which a model can be tried, made with gradio."""

from __future__ import annotations

import contextlib
import inspect
import ipaddress
import math
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from ipt_jax.errors import DecodeError, RunError
from ipt_jax.images import channels
from ipt_jax.images.formats import SUFFIXES
from ipt_jax.images.origin import Origin, digest_of
from ipt_jax.images.read import read_image
from ipt_jax.images.write import Form, writing
from ipt_jax.messages import say
from ipt_jax.restore.animation import count_frames
from ipt_jax.restore.images import to_uint8
from ipt_jax.restore.restorer import Restorer
from ipt_jax.storage import Scratch
from ipt_jax.tasks import IN_WORDS

# Seconds after which a result is deleted.
KEPT = 3600.0
# The newest results that are kept.
RESULTS = 32
# All uploads together may have this many times the bytes of the largest one.
UPLOADS = 32
# Pixels of what the page shows; the result itself is downloaded.
SHOWN = 4_000_000
# Addresses that other machines cannot reach.
LOCAL = ("127.0.0.1", "localhost", "::1")


def serve_until_interrupted(model: Restorer, *, host: str, port: int, max_pixels: int) -> None:
    """Serves the page until Ctrl-C, SIGTERM or SIGHUP; see `start`.

    Uploads and results are deleted at the end; so are those of an earlier page that was killed.
    """
    stopped = threading.Event()
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # Under nohup, SIGHUP is ignored and stays so.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: stopped.set())
    folder = Scratch("ipt-serve-", tempfile.gettempdir())
    try:
        close, address = start(model, Path(folder.path), host, port, max_pixels)
        try:
            say(f"{address}  (tasks {', '.join(model.tasks)}; stop with Ctrl-C)")
            if host not in LOCAL:
                say("other machines can reach this page without a password")
            stopped.wait()
        finally:
            close()
    except KeyboardInterrupt:
        pass
    finally:
        folder.remove()
    say("stopped")


def start(
    model: Restorer, folder: Path, host: str, port: int, max_pixels: int
) -> tuple[Callable[[], None], str]:
    """Starts the page; returns a function that closes it, and its address.

    Args:
      model: the model whose tasks are offered.
      folder: the folder for uploads and results. No file outside it can be read through the page.
      host: the address to listen on.
      port: the port to listen on; 0 chooses a free port.
      max_pixels: larger images are refused before they are decoded.

    Raises:
      RunError: the address cannot be listened on.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    largest = 4 * max_pixels + (1 << 20)
    page = _page(model, folder / "results", max_pixels)
    page.queue(max_size=1, default_concurrency_limit=1, api_open=False)
    settings = dict(
        server_name=host,
        server_port=port or _free_port(host),
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        allowed_paths=[],
        max_file_size=largest,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        footer_links=[],
        show_api=False,
        theme=_plain_theme(),
        app_kwargs={"middleware": [_guard(host, folder / "uploads", UPLOADS * largest)]},
    )
    try:
        page.launch(**_known(type(page).launch, settings))
    except OSError as error:
        raise RunError(f"cannot listen on {host}:{port}: {error}") from None
    return page.close, str(page.local_url)


def _guard(host: str, uploads: Path, limit: int) -> Any:
    """Returns the middleware that refuses foreign requests, for gradio's application."""
    from starlette.middleware import Middleware

    return Middleware(Guard, names=_own_names(host), uploads=uploads, limit=limit)


def _own_names(host: str) -> frozenset[str]:
    """Returns the names by which this page may be addressed; addresses in digits always may."""
    names = {host, "localhost"}
    if host not in LOCAL:
        names |= {socket.gethostname(), socket.getfqdn()}
    return frozenset(name.lower() for name in names)


class Guard:
    """ASGI middleware that refuses requests of other sites, and uploads without room.

    A page of another site can make a visitor's browser send requests to this machine. Such a
    request has the `Origin` of that site. If the site lets its own name point to this machine (DNS
    rebinding), the request has that name as `Host`.

    Args:
      app: the application.
      names: the names that a `Host` header may have, in lower case.
      uploads: the folder of the uploads.
      limit: the most bytes that it may contain.
    """

    def __init__(self, app: Any, names: frozenset[str], uploads: Path, limit: int):
        self._app, self._names, self._uploads, self._limit = app, names, uploads, limit
        self._arriving = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers one request."""
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if not self._is_own(headers):
            return await _refuse(scope, send, 403, "This page is not for other sites.")
        if scope.get("method") not in ("POST", "PUT", "PATCH"):
            return await self._app(scope, receive, send)
        return await self._receive_body(scope, receive, send, headers)

    def _is_own(self, headers: dict[bytes, str]) -> bool:
        host = headers.get(b"host", "").lower()
        name = urlsplit(f"//{host}").hostname or ""
        if name not in self._names and not _is_address(name):
            return False
        origin = headers.get(b"origin")
        return origin is None or urlsplit(origin).netloc.lower() == host

    async def _receive_body(
        self, scope: Any, receive: Any, send: Any, headers: dict[bytes, str]
    ) -> None:
        """Passes a request on, and ends it as soon as its body does not fit any more."""
        _delete_old(self._uploads, KEPT)
        room = self._limit - _bytes_in(self._uploads) - self._arriving
        announced = headers.get(b"content-length", "0")
        own, begun = 0, False

        async def counted() -> Any:
            nonlocal own
            message = await receive()
            size = len(message.get("body", b""))
            own += size
            self._arriving += size
            if own > room:
                raise _NoRoom
            return message

        async def noted(message: Any) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            if not announced.isdigit() or int(announced) > room:
                raise _NoRoom
            await self._app(scope, counted, noted)
        except _NoRoom:
            if not begun:
                await _skip_body(receive, self._limit)
                await _refuse(scope, send, 413, "There is no room for this upload; try it later.")
        finally:
            self._arriving -= own


class _NoRoom(Exception):
    """An upload that does not fit."""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _refuse(scope: Any, send: Any, status: int, text: str) -> None:
    """Answers a request with a status and a line of text."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})


async def _skip_body(receive: Any, limit: int) -> None:
    """Reads the rest of a request and keeps nothing: many clients wait for an answer only then."""
    skipped = 0
    while skipped < limit:
        message = await receive()
        skipped += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return


def _bytes_in(folder: Path) -> int:
    """Returns the bytes of all files below a folder."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            # A file may be deleted at this moment.
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


def _known(function: Callable[..., Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings that the installed version of gradio knows."""
    names = inspect.signature(function).parameters
    return {key: value for key, value in settings.items() if key in names}


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host if host in LOCAL[:2] else "", 0))
        return int(probe.getsockname()[1])


def _plain_theme() -> Any:
    """Returns a theme with the browser's own fonts, so that no font is fetched from a server."""
    import gradio

    return gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])


def _page(model: Restorer, results: Path, max_pixels: int) -> Any:
    import gradio as gr

    names = list(model.tasks)
    one_at_a_time = threading.Lock()

    def show(upload: str | None) -> tuple[Any, str]:
        """Returns the uploaded image, reduced, and what is wrong with it."""
        if upload is None:
            return None, ""
        try:
            picture = read_image(Path(upload), max_pixels)
        except (DecodeError, OSError, MemoryError) as error:
            return None, _sentence(error)
        height, width = picture.pixels.shape[:2]
        small = Reduced(height, width)
        small.add(to_uint8(model.visible_colour(picture.pixels)))
        return to_uint8(small.image()), f"{width}x{height}"

    def restore(
        upload: str | None,
        task: str,
        progress: Any = gr.Progress(),  # noqa: B008 (gradio reads the default)
    ) -> tuple[Any, str, str]:
        if upload is None:
            raise gr.Error("Drop an image first.")
        if task not in names:
            raise gr.Error("There is no such task.")
        _delete_old(results, KEPT, RESULTS - 1)
        place = results / uuid.uuid4().hex
        place.mkdir(parents=True)
        try:
            with one_at_a_time:
                shown, after, summary = restore_upload(
                    model, Path(upload), task, place, max_pixels, progress
                )
        except (DecodeError, OSError, MemoryError) as error:
            raise gr.Error(_sentence(error)) from None
        return (str(shown[0]), str(shown[1])), str(after), summary

    with gr.Blocks(
        **_known(
            gr.Blocks.__init__,
            dict(
                title="ipt",
                analytics_enabled=False,
                delete_cache=(600, int(KEPT)),
                theme=_plain_theme(),
            ),
        )
    ) as page:
        gr.Markdown(
            "# ipt\nRestores an image with the Image Processing Transformer, on the machine that "
            "serves this page."
        )
        with gr.Row():
            label = f"Image (PNG, JPEG, WebP, TIFF, BMP; up to {max_pixels / 1e6:g} megapixels)"
            upload = gr.File(
                label=label, type="filepath", file_types=[*SUFFIXES, ".gif"], elem_id="upload"
            )
            preview = gr.Image(
                label="The image", type="numpy", interactive=False, height=240, elem_id="preview"
            )
            with gr.Column():
                choices = [
                    (f"{name}: {IN_WORDS.get(name, 'a task of these weights')}", name)
                    for name in names
                ]
                task = gr.Dropdown(choices, value=names[0], label="Task", elem_id="task")
                button = gr.Button("Restore", variant="primary", elem_id="restore")
        slider = gr.ImageSlider(
            label="Before / after", type="filepath", elem_id="slider", interactive=False
        )
        said = gr.Markdown(elem_id="said")
        download = gr.DownloadButton("Download the result (PNG)", elem_id="download")
        upload.change(show, upload, [preview, said])
        button.click(restore, [upload, task], [slider, download, said])
    return page


def _sentence(error: Exception) -> str:
    """Returns what is wrong with an upload, without a name of a file."""
    text = str(error) if isinstance(error, DecodeError) else "the image cannot be restored"
    return f"{text[0].upper()}{text[1:]}."


class Reduced:
    """Reduces an image that comes in rows to about `SHOWN` pixels, which a browser can show.

    Args:
      height: height of the image in pixels.
      width: width of the image in pixels.
    """

    def __init__(self, height: int, width: int):
        self.factor = max(1, math.ceil(math.sqrt(height * width / SHOWN)))
        self._rows: list[np.ndarray] = []
        self._waiting: np.ndarray | None = None

    def add(self, rows: np.ndarray) -> None:
        """Adds the next rows `[rows, W, C]`; the means of whole blocks of pixels are kept."""
        if self._waiting is not None:
            rows = np.concatenate([self._waiting, rows])
        side = self.factor
        height, width = (size // side * side for size in rows.shape[:2])
        self._waiting = rows[height:]
        blocks = rows[:height, :width].reshape(
            height // side, side, width // side, side, rows.shape[2]
        )
        self._rows.append(blocks.mean(axis=(1, 3)))

    def image(self) -> np.ndarray:
        """Returns the reduced image, float `[H / factor, W / factor, C]`."""
        return np.concatenate(self._rows)


def restore_upload(
    model: Restorer,
    source: Path,
    task: str,
    place: Path,
    max_pixels: int,
    progress: Callable[[tuple[int, int]], Any] = lambda done: None,
) -> tuple[tuple[Path, Path], Path, str]:
    """Restores a file.

    Args:
      model: the model.
      source: the file.
      task: name of the task.
      place: the folder for the results.
      max_pixels: a larger image is refused.
      progress: called with (tiles that are done, all tiles).

    Returns:
      Two PNG files of the same size to compare, the input (for super-resolution enlarged, bicubic)
      and the result, both reduced to `SHOWN` pixels at most; the file of the whole result; and a
      summary of the sizes.

    Raises:
      DecodeError: the file is not an image, or it is too large; the message names no file.
    """
    picture = read_image(source, max_pixels)
    scale = model.task(task).scale
    height, width, count = picture.pixels.shape
    after = place / f"{source.stem}_{task}.png"
    form, _ = Form(
        "png",
        height * scale,
        width * scale,
        count,
        8 * picture.pixels.itemsize,
        picture.held,
        origin=Origin(source.name, digest_of(source), (task,)),
    ).fitted()
    pixels = channels.fill_transparent(picture.pixels, model.model.tile)
    done, tiles = 0, model.tiles(height, width, task)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress((done, tiles))

    small = Reduced(height * scale, width * scale)
    with writing(after, form) as writer:
        for rows in model.restore_rows(pixels, task, done=advance):
            writer.write(rows)
            small.add(rows)
    shown = place / "before.png", after
    if small.factor > 1:
        # A result of a telephone's photograph has 50 megapixels and more.
        shown = place / "before.png", place / "after.png"
        as_seen = channels.colour(small.image().astype(picture.pixels.dtype))
        Image.fromarray(to_uint8(as_seen)).save(shown[1], icc_profile=picture.profile)
    seen = Image.fromarray(to_uint8(model.visible_colour(picture.pixels)))
    with Image.open(shown[1]) as result:
        enlarged = seen.resize(result.size, Image.Resampling.BICUBIC)
    enlarged.save(shown[0], icc_profile=picture.profile)
    remarks = list(picture.notes)
    if (frames := count_frames(source)) > 1:
        remarks.append(f"the first of {frames} frames; ipt restore restores all")
    notes = "".join(f" ({remark})" for remark in remarks)
    return shown, after, f"{width}x{height} to {width * scale}x{height * scale}{notes}"


def _delete_old(folder: Path, age: float, newest: int | None = None) -> None:
    """Deletes what is in a folder and older than `age` seconds, or not among the `newest`."""
    entries = []
    for entry in folder.iterdir() if folder.exists() else ():
        # Another request may delete it at this moment.
        with contextlib.suppress(OSError):
            entries.append((entry.stat().st_mtime, entry))
    entries.sort(reverse=True)
    for number, (changed, entry) in enumerate(entries):
        if changed < time.time() - age or (newest is not None and number >= newest):
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
