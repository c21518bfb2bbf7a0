"""Hooks of the documentation site: pages that are generated, and links that leave the site.

mkdocs calls these functions by their names (`mkdocs.yml`). The pages in `docs/` are written for
GitHub, where a link may lead to any file of the repository.
"""

from __future__ import annotations

import argparse
import logging
import os
import pathlib
import posixpath
import re
import sys
from collections.abc import Iterator
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from ipt_jax.cli.app import PROGRAM, Parser, make_parser  # noqa: E402
from ipt_jax.versions import ADDRESS  # noqa: E402

# mkdocs counts the warnings of its own loggers, and --strict makes them errors.
_LOG = logging.getLogger("mkdocs.hooks.site")
_LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")
# What `ipt_jax.load` returns is used, but not imported, by users.
_RETURNED = ("ipt_jax.restore.restorer.Restorer",)


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are generated: the command line, and the public names of the package."""
    for place, text in (("reference/cli.md", cli_page()), ("reference/python.md", python_page())):
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turns links to files that are not part of the site into links to the repository."""
    folder = posixpath.dirname(page.file.src_uri)

    def outside(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", folder, link[2]))
        inside = target.removeprefix("docs/")
        file = files.get_file_from_path(inside) if target != inside else None
        if file is not None and not file.inclusion.is_excluded():
            return link[0]
        if not (ROOT / target).exists():
            _LOG.warning("%s: the link to %s leads nowhere", page.file.src_uri, link[2])
        # Before the project has an address, the file's path stands for the link.
        address = f"{ADDRESS}/blob/main/{target}{link[3] or ''}" if ADDRESS else "#"
        return f"{link[1]}{address})"

    # Code is left as it is.
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else _LINK.sub(outside, part) for part in parts)


def cli_page() -> str:
    """Returns the reference of all commands, from their parsers."""
    # argparse wraps at the width of the terminal.
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "90"
    try:
        parts = [
            "# Command line\n\nThis page is what `--help` prints, generated from the parsers. Exit "
            "codes: 0 done, 1 a fault while running, 2 wrong usage or input.\n"
        ]
        for words, parser in _commands([PROGRAM], make_parser()):
            parts.append(f"\n## {' '.join(words)}\n\n```text\n{parser.format_help()}```\n")
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    return "".join(parts)


def _commands(
    words: list[str], parser: argparse.ArgumentParser
) -> Iterator[tuple[list[str], argparse.ArgumentParser]]:
    """Yields a parser and those of its sub-commands, each with the words that lead to it."""
    yield words, parser
    if isinstance(parser, Parser):
        for name, command in parser.commands.items():
            yield from _commands([*words, name], command)


def public_names() -> list[str]:
    """Returns the names in Python that CONTRIBUTING.md promises to keep."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    sentence = re.search(r"^The public names are (.*?)the command", text, re.MULTILINE | re.DOTALL)
    if sentence is None:
        raise ValueError("CONTRIBUTING.md has no sentence 'The public names are ..., the command'")
    return re.findall(r"`(ipt_jax[\w.]*)`", sentence[1])


def python_page() -> str:
    """Returns the page on which mkdocstrings puts the docstrings of the public names."""
    head = (
        "# Python\n\nThese names stay between versions, as "
        "CONTRIBUTING.md promises. Other modules may move.\n"
    )
    return head + "".join(f"\n::: {name}\n" for name in (*public_names(), *_RETURNED))
