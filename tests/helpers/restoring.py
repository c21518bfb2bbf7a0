"""`ipt restore` in this process, and the files that it leaves."""

from __future__ import annotations

import hashlib
import pathlib

from ipt_jax.cli.app import main


def restore(*words: object) -> int:
    """Runs `ipt restore` with small batches; returns its exit code."""
    try:
        return main(["restore", *map(str, words), "--overlap", "4", "--batch", "2"])
    except SystemExit as exit_:
        return int(exit_.code or 0)


def digests(folder: pathlib.Path) -> dict[str, str]:
    """Returns the digest of each file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
