"""`ipt serve`: a local page to try a model on."""

from __future__ import annotations

import argparse
from typing import Any

from ipt_jax.cli.flags import add_weights_flags

DESCRIPTION = """Starts a page on this machine: drop a picture, choose a task, see before and after under a slider, download the
result. One picture is restored at a time. It listens on 127.0.0.1; other machines reach it only with another --host, and there
is no password. Needs gradio: pip install 'ipt_jax[serve]'."""


def add_parser(commands: Any) -> None:
    """Adds the command to the sub-parsers of `ipt`."""
    parser = commands.add_parser(
        "serve", allow_abbrev=False, help="a local page to try a model on", description=DESCRIPTION
    )
    add_weights_flags(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="listen there (default: 127.0.0.1)"
    )
    parser.add_argument(
        "--port", type=int, default=7860, metavar="N", help="default: 7860; 0: a free one"
    )
    parser.add_argument(
        "--max-megapixels",
        type=float,
        default=4,
        metavar="N",
        help="refuse larger pictures (default: 4)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs the command until Ctrl-C.

    Raises:
      UserError: wrong usage, weights that are not there, or gradio is missing.
      RunError: the address cannot be listened on.
    """
    from ipt_jax import serve

    return serve.run(options)
