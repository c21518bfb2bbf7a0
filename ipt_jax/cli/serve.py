"""`ipt serve`: a local page to try a model on."""

from __future__ import annotations

import argparse
from typing import Any

from ipt_jax.cli.flags import add_weights_flags, load_weights
from ipt_jax.errors import UserError
from ipt_jax.versions import install

DESCRIPTION = (
    "Starts a page on this machine: drop an image, choose a task, compare the image before and "
    "after with a slider, and download the result. One image is restored at a time. The page "
    "listens on 127.0.0.1; other machines can only reach it with another --host, and there is no "
    f"password. This command needs gradio: {install('serve')}."
)


def add_parser(commands: Any) -> None:
    """Adds the command to the sub-parsers of `ipt`."""
    parser = commands.add_parser(
        "serve", allow_abbrev=False, help="a local page to try a model on", description=DESCRIPTION
    )
    add_weights_flags(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="the address to listen on (default: 127.0.0.1)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=7860,
        metavar="N",
        help="the port to listen on; 0 chooses a free port (default: 7860)",
    )
    parser.add_argument(
        "--max-megapixels",
        type=float,
        default=16,
        metavar="N",
        help="refuse larger images (default: 16)",
    )
    parser.set_defaults(run=serve)


def serve(options: argparse.Namespace) -> int:
    """Runs `ipt serve` until Ctrl-C.

    Raises:
      UserError: wrong usage, the weights do not exist, or gradio is missing.
      RunError: the address cannot be listened on.
    """
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise UserError(f"ipt serve needs gradio: {install('serve')}") from None
    from ipt_jax.serve.page import serve_until_interrupted

    if not options.max_megapixels > 0:
        raise UserError(f"--max-megapixels {options.max_megapixels:g}: it must be above 0")
    serve_until_interrupted(
        load_weights(options),
        host=options.host,
        port=options.port,
        max_pixels=round(options.max_megapixels * 1e6),
    )
    return 0
