"""The local page on which a model can be tried, made with gradio."""

from __future__ import annotations

import inspect
import os
import signal
import socket
import tempfile
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ipt_jax.errors import DecodeError, RunError
from ipt_jax.images.formats import SUFFIXES
from ipt_jax.images.read import read_image
from ipt_jax.messages import say
from ipt_jax.restore.images import to_uint8
from ipt_jax.restore.restorer import Restorer
from ipt_jax.serve.guard import LOCAL, guard
from ipt_jax.serve.uploads import KEPT, Reduced, delete_old, restore_upload
from ipt_jax.storage import Scratch
from ipt_jax.tasks import IN_WORDS

# The newest results that are kept.
RESULTS = 32
# All uploads together may have this many times the bytes of the largest one.
UPLOADS = 32


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
        app_kwargs={"middleware": [guard(host, folder / "uploads", UPLOADS * largest)]},
    )
    try:
        page.launch(**_known(type(page).launch, settings))
    except OSError as error:
        raise RunError(f"cannot listen on {host}:{port}: {error}") from None
    return page.close, str(page.local_url)


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
        delete_old(results, KEPT, RESULTS - 1)
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
