"""Every command of README.md and docs/ is run by a test, or says why it is not."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys

import cv2
import documented
import documents
import places
import pytest
import runs
import textures

from ipt_jax import trees
from ipt_jax.cli.app import main, make_parser, split_overrides
from ipt_jax.config import defaults
from ipt_jax.tasks import PAPER_TASKS

PAGES = documents.pages()
BLOCKS = [block for page in PAGES for block in documents.blocks(page)]
COMMANDS = [
    pytest.param(words, id=f"{block.page}:{block.line}:{' '.join(words)[:60]}")
    for block in BLOCKS
    if block.language == "bash"
    for words in block.commands()
]
RUN = sorted(
    {block.page for block in BLOCKS if block.language in ("bash", "python") and not block.reason}
)


def test_commands_are_fenced_and_languages_are_known():
    assert len(PAGES) > 20 and len(COMMANDS) > 60 and len(RUN) > 8
    assert [line for page in PAGES for line in documents.unfenced(page)] == []
    for block in BLOCKS:
        assert block.language in ("bash", "python", "mermaid", "dockerfile", "text", "yaml"), block
        if block.language in ("mermaid", "dockerfile", "text", "yaml"):
            first = block.code.split("\n")[0]
            assert not first.startswith(documents.PROGRAMS), block


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_names_what_exists(words):
    problems = check(words)
    assert problems == []


def check(words: list[str]) -> list[str]:
    """Returns what is wrong with a command: flags, config keys, files, extras, targets."""
    program, rest = words[0], words[1:]
    problems = []
    if "--" in words:
        inner = words[words.index("--") + 1 :]
        return check(words[: words.index("--")]) + check(inner)
    if program == "ipt":
        known = trees.flatten(defaults.default())
        for key in re.findall(r"--config\.([\w.]+)", " ".join(rest)):
            problems += [] if key in known else [f"no config key {key}"]
        for file in re.findall(r"--config[= ](configs/[\w.]+)", " ".join(rest)):
            problems += [] if (places.ROOT / file).is_file() else [f"no file {file}"]
        if "..." in rest or "$C" in rest or "$S" in rest or "--config=..." in rest:
            return problems
        try:
            make_parser().parse_args(split_overrides(rest)[0])
        except SystemExit as stop:
            problems += [] if stop.code == 0 else [f"cannot be parsed: {' '.join(words)}"]
    elif program == "make":
        targets = re.findall(r"^(\w+):", (places.ROOT / "Makefile").read_text(), re.MULTILINE)
        problems += [f"no target {word}" for word in rest if word not in targets]
    elif program == "pip":
        extras = re.findall(r'^    "(\w+)": ', (places.ROOT / "setup.py").read_text(), re.MULTILINE)
        for names in re.findall(r"\[([\w,]+)\]", " ".join(rest)):
            problems += [f"no extra {name}" for name in names.split(",") if name not in extras]
    elif program == "python" and rest[0] == "-m":
        file = places.ROOT / (rest[1].replace(".", "/") + ".py")
        problems += [] if "NAME" in rest[1] or file.is_file() else [f"no module {rest[1]}"]
    elif program in ("python", "pytest") or program.startswith("launch/"):
        for word in [program, *rest]:
            if word.startswith(("tests/", "benchmarks/", "examples/", "launch/")):
                problems += [] if (places.ROOT / word).exists() else [f"no file {word}"]
    return problems


def test_the_check_finds_what_is_wrong():
    for line in (
        "ipt restore photo.jpg --tsk sr2",
        "ipt pretrain --config=configs/demo.py --workdir=w --config.batchsize=3",
        "ipt pretrain --config=configs/gone.py --workdir=w",
        "launch/local.sh --processes 2 -- ipt restore",
        "make tset",
        "pip install -e .[gone]",
        "python -m studies.gone",
        "python examples/gone.py",
        "launch/gone.sh",
    ):
        assert check(line.split()) != [], line


def write(path: pathlib.Path, seed: int, side: int = 256) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), textures.picture(seed, side, side))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> pathlib.Path:
    """A folder with all that the commands take: images, sets, weights, and an `ipt`."""
    pytest.importorskip("torch", reason="needs the extra torch")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    folder = tmp_path_factory.mktemp("reader")
    for name in ("configs", "examples"):
        (folder / name).symlink_to(places.ROOT / name)
    for name in ("photo.jpg", "photo.png", "small.png", "scan.png", "more/a.tif"):
        write(folder / name, 1, 40)
    for name in ("photos", "PHOTOS", "CID22", "cid22", "DIV2K_train_HR", "DF2K_tiles"):
        for i in range(8):
            write(folder / name / f"{i}.png", i)
    for i in range(8):
        for name in ("pairs/lq", "pairs/hq", "GoPro/train/s/blur", "GoPro/train/s/sharp"):
            write(folder / name / f"{i}.png", i)
    sets = folder / "benchmarks"
    for name in ("Set5/HR", "Set14/HR", "CBSD68", "Rain100L/rainy", "Rain100L/clean"):
        for i in range(2):
            write(sets / name / f"{i}.png", i, 48)
    more = (*PAPER_TASKS, "denoise", "jpeg")
    for name in ("runs/demo", "runs/mine", "runs/small", "runs/folder", "runs/cid22", "WEIGHTS"):
        runs.make_run(folder / name, tasks=more if name == "runs/small" else PAPER_TASKS)
        (folder / name / documented.PREPARED).touch()
    export(folder)
    return folder


def export(folder: pathlib.Path) -> None:
    """Writes the files in the authors' format that the pages name."""
    for name, words in (
        ("IPT_sr2.pt", ["--task", "sr2"]),
        ("IPT_pretrain.pt", []),
        ("IPT_denoise.pt", ["--task", "denoise30"]),
    ):
        given = ["--weights", str(folder / "WEIGHTS"), "--format", "torch"]
        assert main(["export", *given, "-o", str(folder / name), *words]) == 0


PRELUDE = """
import os
os.environ.setdefault("JAX_PLATFORMS", "cpu")
import numpy as np
image = other = np.full((40, 40, 3), 90, np.uint8)
patches = np.zeros((2, 48, 48, 3), np.float32)
"""


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page_run(page, place, tmp_path):
    folder = tmp_path / "reader"
    shutil.copytree(place, folder, symlinks=True)
    (folder / "bin").mkdir()
    helper = places.ROOT / "tests" / "helpers" / "documented.py"
    for name, words in (
        ("ipt", f'"{sys.executable}" "{helper}"'),
        ("python", f'"{sys.executable}"'),
    ):
        (folder / "bin" / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        (folder / "bin" / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(places.ROOT),
        "HOME": str(folder),
        "JAX_PLATFORMS": "cpu",
        # Compiling is most of the time; one device is enough.
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    for block in BLOCKS:
        if block.page != page or block.reason or block.language not in ("bash", "python"):
            continue
        if block.language == "bash":
            words = ["bash", "-euo", "pipefail", "-c", block.code]
        else:
            words = [sys.executable, "-c", PRELUDE + block.code]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{page}:{block.line}\n{block.code}\n{done.stderr[-3000:]}"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=places.ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    command_line = (tmp_path / "reference" / "cli.html").read_text()
    assert "--max-megapixels" in command_line and "ipt data prepare" in command_line
    names = (tmp_path / "reference" / "python.html").read_text()
    assert 'id="ipt_jax.load"' in names and 'id="ipt_jax.metrics.psnr"' in names
