"""The local page on which a model can be tried, made with gradio."""

from __future__ import annotations

import inspect
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ipt_jax.errors import DecodeError, RunError
from ipt_jax.images.formats import SUFFIXES
from ipt_jax.images.origin import Origin, digest_of
from ipt_jax.images.read import ImageFile, read_image
from ipt_jax.images.write import Form, writing
from ipt_jax.restore.images import to_uint8
from ipt_jax.restore.restorer import Restorer

# Seconds after which a result is deleted.
KEPT = 3600.0
# Addresses that other machines cannot reach.
LOCAL = ("127.0.0.1", "localhost", "::1")


def serve_until_interrupted(model: Restorer, *, host: str, port: int, max_pixels: int) -> None:
    """Serves the page until Ctrl-C; see `start`."""
    with tempfile.TemporaryDirectory(prefix="ipt_serve_") as folder:
        close, address = start(model, Path(folder), host, port, max_pixels)
        try:
            print(f"{address}  (tasks {', '.join(model.tasks)}; stop with Ctrl-C)", flush=True)
            if host not in LOCAL:
                print("other machines can reach this page without a password", flush=True)
            threading.Event().wait()
        except KeyboardInterrupt:
            print("stopped")
        finally:
            close()


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
    page = _page(model, folder / "results", max_pixels)
    page.queue(max_size=1, default_concurrency_limit=1, api_open=False)
    settings = dict(
        server_name=host,
        server_port=port or _free_port(host),
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        allowed_paths=[],
        max_file_size=4 * max_pixels + (1 << 20),
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        footer_links=[],
        show_api=False,
        theme=_plain_theme(),
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
    import socket

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

    def restore(upload: str | None, task: str) -> tuple[Any, str, str]:
        if upload is None:
            raise gr.Error("Drop an image first.")
        if task not in names:
            raise gr.Error("There is no such task.")
        _delete_old(results)
        place = results / uuid.uuid4().hex
        place.mkdir(parents=True)
        try:
            with one_at_a_time:
                before, after, summary = restore_upload(
                    model, Path(upload), task, place, max_pixels
                )
        except (DecodeError, OSError, MemoryError) as error:
            text = str(error) if isinstance(error, DecodeError) else "the image cannot be restored"
            raise gr.Error(f"{text[0].upper()}{text[1:]}.") from None
        return (str(before), str(after)), str(after), summary

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
            with gr.Column():
                task = gr.Dropdown(names, value=names[0], label="Task", elem_id="task")
                button = gr.Button("Restore", variant="primary", elem_id="restore")
        slider = gr.ImageSlider(
            label="Before / after", type="filepath", elem_id="slider", interactive=False
        )
        said = gr.Markdown(elem_id="said")
        download = gr.DownloadButton("Download the result (PNG)", elem_id="download")
        button.click(restore, [upload, task], [slider, download, said])
    return page


def restore_upload(
    model: Restorer, source: Path, task: str, place: Path, max_pixels: int
) -> tuple[Path, Path, str]:
    """Restores a file.

    Args:
      model: the model.
      source: the file.
      task: name of the task.
      place: the folder for the results.
      max_pixels: a larger image is refused.

    Returns:
      Two PNG files of the same size, the input (for super-resolution enlarged, bicubic) and the
      result, and a summary of their sizes.

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
    pixels = model.restore(picture.pixels, task)
    with writing(after, form) as writer:
        writer.write(pixels)
    before = place / "before.png"
    _before(model, picture, scale).save(before, icc_profile=picture.profile)
    notes = "".join(f" ({note})" for note in picture.notes)
    return before, after, f"{width}x{height} to {width * scale}x{height * scale}{notes}"


def _before(model: Restorer, picture: ImageFile, scale: int) -> Image.Image:
    """Returns the input, enlarged to the size of the result (bicubic)."""
    image = Image.fromarray(np.ascontiguousarray(to_uint8(model.visible_colour(picture.pixels))))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)


def _delete_old(results: Path) -> None:
    """Deletes results older than `KEPT`."""
    for folder in results.iterdir() if results.exists() else ():
        if folder.stat().st_mtime < time.time() - KEPT:
            shutil.rmtree(folder, ignore_errors=True)
