"""The page of `ipt serve`, made with gradio."""

from __future__ import annotations

import argparse
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

from ipt_jax.errors import DecodeError, RunError, UserError
from ipt_jax.images import channels
from ipt_jax.images.formats import SUFFIXES
from ipt_jax.images.read import ImageFile, read_image
from ipt_jax.images.write import Form, writing
from ipt_jax.restore.restorer import Restorer
from ipt_jax.weights.default import default_weights
from ipt_jax.weights.load import load

# Seconds after which a result is deleted
KEPT = 3600.0
LOCAL = ("127.0.0.1", "localhost", "::1")


def run(options: argparse.Namespace) -> int:
    """Serves until Ctrl-C."""
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise UserError("ipt serve needs gradio: pip install 'ipt_jax[serve]'") from None
    if not options.max_megapixels > 0:
        raise UserError(f"--max-megapixels {options.max_megapixels:g}: must be above 0")
    weights = options.weights or default_weights([])
    model = load(weights, task=options.weights_tasks, heads=options.heads, raw=options.raw)
    with tempfile.TemporaryDirectory(prefix="ipt_serve_") as folder:
        close, address = start(
            model, Path(folder), options.host, options.port, round(options.max_megapixels * 1e6)
        )
        try:
            print(f"{address}  (tasks {', '.join(model.tasks)}; Ctrl-C ends it)", flush=True)
            if options.host not in LOCAL:
                print("other machines can reach it, without a password", flush=True)
            threading.Event().wait()
        except KeyboardInterrupt:
            print("ended")
        finally:
            close()
    return 0


def start(
    model: Restorer, folder: Path, host: str, port: int, max_pixels: int
) -> tuple[Callable[[], None], str]:
    """Starts the page; returns what ends it, and its address.

    Args:
      model: whose tasks are offered.
      folder: for what is uploaded and made: nothing outside it can be read through the page.
      host, port: where to listen; port 0: a free one.
      max_pixels: larger pictures are refused before they are decoded.

    Raises:
      RunError: the address cannot be listened on.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    page = _page(model, folder / "results", max_pixels)
    plain = _plain_theme()
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
        theme=plain,
    )
    try:
        page.launch(**_known(type(page).launch, settings))
    except OSError as error:
        raise RunError(f"cannot listen on {host}:{port}: {error}") from None
    return page.close, str(page.local_url)


def _known(function: Callable[..., Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Those settings that this version of gradio has."""
    names = inspect.signature(function).parameters
    return {key: value for key, value in settings.items() if key in names}


def _free_port(host: str) -> int:
    import socket

    with socket.socket() as probe:
        probe.bind((host if host in LOCAL[:2] else "", 0))
        return int(probe.getsockname()[1])


def _plain_theme() -> Any:
    """With the browser's own fonts: nothing is fetched from elsewhere."""
    import gradio

    return gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])


def _page(model: Restorer, results: Path, max_pixels: int) -> Any:
    import gradio as gr

    names = list(model.tasks)
    one_at_a_time = threading.Lock()

    def restore(upload: str | None, task: str) -> tuple[Any, str, str]:
        if upload is None:
            raise gr.Error("Drop a picture first.")
        if task not in names:
            raise gr.Error("No such task.")
        _forget(results)
        place = results / uuid.uuid4().hex
        place.mkdir(parents=True)
        try:
            with one_at_a_time:
                before, after, said = restored(model, Path(upload), task, place, max_pixels)
        except (DecodeError, OSError, MemoryError) as error:
            text = (
                str(error) if isinstance(error, DecodeError) else "the picture cannot be restored"
            )
            raise gr.Error(f"{text[0].upper()}{text[1:]}.") from None
        return (str(before), str(after)), str(after), said

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
            "# ipt\nRestores a picture with the Image Processing Transformer, on the machine that "
            "serves this page."
        )
        with gr.Row():
            label = f"Picture (PNG, JPEG, WebP, TIFF, BMP; up to {max_pixels / 1e6:g} megapixels)"
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


def restored(
    model: Restorer, source: Path, task: str, place: Path, max_pixels: int
) -> tuple[Path, Path, str]:
    """Restores a file; returns two PNGs of one size, the input (for super-resolution enlarged,
    bicubic) and the result.

    Raises:
      DecodeError: not a picture, or too large; the message names no file.
    """
    picture = read_image(source, max_pixels)
    scale = model.task(task).scale
    height, width, count = picture.pixels.shape
    after = place / f"{source.stem}_{task}.png"
    form = Form(
        "png",
        height * scale,
        width * scale,
        count,
        8 * picture.pixels.itemsize,
        picture.profile,
        picture.exif,
    )
    pixels = model.restore(picture.pixels, task)
    with writing(after, form) as writer:
        writer.write(pixels)
    before = place / "before.png"
    _before(picture, scale).save(before, icc_profile=picture.profile)
    notes = "".join(f" ({note})" for note in picture.notes)
    return before, after, f"{width}x{height} to {width * scale}x{height * scale}{notes}"


def _before(picture: ImageFile, scale: int) -> Image.Image:
    shown = channels.colour(picture.pixels)
    image = Image.fromarray(
        np.clip(shown + 0.5, 0, 255).astype(np.uint8)
        if shown.dtype != np.uint8
        else np.ascontiguousarray(shown)
    )
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)


def _forget(results: Path) -> None:
    """Deletes results of an hour ago."""
    for folder in results.iterdir() if results.exists() else ():
        if folder.stat().st_mtime < time.time() - KEPT:
            shutil.rmtree(folder, ignore_errors=True)
