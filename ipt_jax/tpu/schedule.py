"""The TPU compiler's static schedule of kernels.

The compiler's estimate of cycles leaves out Pallas kernels. Its dump has the schedule of each: the
bundles of instructions that the core issues one after the other. A kernel's loop over its grid is
one of them, so a grid of 24 images runs nearly all of its bundles 24 times.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator

# libtpu reads it once, when it is loaded.
_VARIABLE = "LIBTPU_INIT_ARGS"
_FLAGS = (
    "--xla_jf_dump_to={} --xla_jf_dump_llo_text=true --xla_jf_dump_hlo_text=false "
    "--xla_jf_dump_llo_pass_label_regex=.*final_hlo-static.*"
)
_FILE = re.compile(r"\d+-(.+)-\d+-final_hlo-static-per-bundle-utilization\.txt")
# Lines in front of those of the bundles.
_HEADER = 4


@contextlib.contextmanager
def dumped() -> Iterator[pathlib.Path]:
    """Has libtpu write the schedules of what it compiles into a folder, which is removed after.

    It has no effect if libtpu is loaded already.
    """
    before = os.environ.get(_VARIABLE)
    with tempfile.TemporaryDirectory(prefix="ipt-schedule-") as folder:
        os.environ[_VARIABLE] = f"{before or ''} {_FLAGS.format(folder)}".strip()
        try:
            yield pathlib.Path(folder)
        finally:
            if before is None:
                os.environ.pop(_VARIABLE, None)
            else:
                os.environ[_VARIABLE] = before


def read_bundles(folder: pathlib.Path) -> dict[str, int]:
    """Returns the number of bundles of each instruction whose schedule is in the folder."""
    found = {}
    for file in folder.iterdir():
        match = _FILE.fullmatch(file.name)
        if match is not None:
            with file.open(errors="replace") as lines:
                found[match.group(1)] = max(0, sum(1 for _ in lines) - _HEADER)
    return found
