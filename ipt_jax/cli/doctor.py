"""`ipt doctor`: describes this machine and what is wrong with it, for a bug report.

The report has no secrets. Of the environment, it shows only variables that change jax's behaviour.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pathlib
import platform
import shutil
import sys
from typing import Any

from ipt_jax.errors import UserError
from ipt_jax.messages import say
from ipt_jax.versions import install, versions, versions_of

SHOWN = (
    "JAX_PLATFORMS",
    "XLA_FLAGS",
    "JAX_COMPILATION_CACHE_DIR",
    "TFDS_DATA_DIR",
    "CUDA_VISIBLE_DEVICES",
)
# Module -> (package, what needs it, the extra that installs it).
OPTIONAL = {
    "tensorflow": ("tensorflow", "ipt data prepare imagenet2012", "prepare"),
    "torch": ("torch", "the authors' .pt files", "torch"),
    "libtpu": ("libtpu", "ipt compile", "compile"),
    "jax_cuda12_plugin": ("jax-cuda12-plugin", "NVIDIA GPUs, CUDA 12", "cuda12"),
    "jax_cuda13_plugin": ("jax-cuda13-plugin", "NVIDIA GPUs, CUDA 13", "cuda13"),
    "onnx": ("onnx", "ipt export --format onnx", "onnx"),
    "huggingface_hub": ("huggingface_hub", "hf:// addresses, ipt push", "hub"),
    "gradio": ("gradio", "ipt serve", "serve"),
    "skimage": ("scikit-image", "configs/demo.py", "demo"),
}
GB = 2**30


def add_parser(commands: Any) -> None:
    """Adds `ipt doctor`."""
    command = commands.add_parser(
        "doctor",
        allow_abbrev=False,
        help="describe this machine and what is wrong with it",
        description="Prints versions, devices, memory, data sets and optional packages, and a list "
        "of problems. The exit code is 1 if there are any.",
    )
    command.add_argument(
        "--data-dir",
        metavar="DIR",
        help="the folder of TFDS data sets (default: TFDS_DATA_DIR, else ~/tensorflow_datasets)",
    )
    command.set_defaults(run=run_doctor)


def run_doctor(options: argparse.Namespace) -> int:
    """Runs `ipt doctor`; returns 1 if something is wrong."""
    wrong: list[str] = []
    for title, rows in (
        ("versions", {**versions(), "system": _system()}),
        ("devices", devices(wrong)),
        ("memory and disk", memory(wrong)),
        ("data sets", data_sets(options.data_dir)),
        ("optional", optional()),
        ("environment", {name: os.environ[name] for name in SHOWN if name in os.environ}),
    ):
        say(f"{title}:")
        width = max((len(key) for key in rows), default=0)
        for key, value in (rows or {"(nothing)": ""}).items():
            say(f"  {key:<{width}}  {value}".rstrip())
    say("wrong:" if wrong else "nothing wrong found")
    for line in wrong:
        say(f"  - {line}")
    return 1 if wrong else 0


def _system() -> str:
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def devices(wrong: list[str]) -> dict[str, str]:
    """Returns a description of jax's devices.

    Args:
      wrong: the list of problems, to which this function adds: jax starts no devices, or does not
        use an accelerator of this machine.
    """
    import jax

    from ipt_jax.distributed.devices import check_accelerator

    try:
        found = jax.devices()
    except RuntimeError as error:
        wrong.append(f"jax starts no devices: {str(error).splitlines()[0]}")
        return {"jax": "no devices"}
    kind = f"{len(found)} x {found[0].device_kind} ({found[0].platform})"
    rows = {"jax": kind, "processes": str(jax.process_count()), "CPU cores": str(os.cpu_count())}
    limit = (found[0].memory_stats() or {}).get("bytes_limit")
    if limit:
        rows["memory a device"] = f"{limit / GB:.1f} GB"
    if os.environ.get("JAX_PLATFORMS", "") in ("", "cuda"):
        try:
            check_accelerator()
        except UserError as error:
            wrong.append(str(error))
    return rows


def memory(wrong: list[str]) -> dict[str, str]:
    """Returns the size of the memory, of the shared memory and of the current folder's disk.

    Args:
      wrong: the list of problems, to which this function adds.
    """
    rows = {}
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        rows["memory"] = f"{total / GB:.1f} GB"
    except (ValueError, OSError):
        pass
    for name, folder in (("/dev/shm", "/dev/shm"), ("current folder", ".")):
        if os.path.isdir(folder):
            usage = shutil.disk_usage(folder)
            rows[name] = f"{usage.free / GB:.1f} of {usage.total / GB:.1f} GB free"
            if name == "/dev/shm" and usage.free < GB / 4:
                wrong.append(
                    f"/dev/shm has only {usage.free / 2**20:.0f} MB free, so batches of worker "
                    "processes are copied through the disk; in docker: --shm-size=2g"
                )
            if name == "current folder" and usage.free < 2 * GB:
                wrong.append(
                    f"the current folder's disk has only {usage.free / GB:.1f} GB free; a "
                    "checkpoint of IPT takes 1.4 GB"
                )
    if sys.platform != "win32":
        import resource

        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        rows["open files"] = f"at most {soft}"
        if soft < 1024:
            wrong.append(f"a process may open only {soft} files; raise the limit: ulimit -n 4096")
    return rows


def data_sets(data_dir: str | None) -> dict[str, str]:
    """Returns the file format of each prepared TFDS data set, by its name and version."""
    folder = pathlib.Path(
        data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    ).expanduser()
    if not folder.is_dir():
        return {str(folder): "not there"}
    rows = {str(folder): ""}
    for info in sorted(
        [*folder.glob("*/*/dataset_info.json"), *folder.glob("*/*/*/dataset_info.json")]
    ):
        try:
            kind = json.loads(info.read_text()).get("fileFormat", "tfrecord")
        except (OSError, ValueError) as error:
            kind = f"damaged: {error}"
        rows[f"  {info.parent.relative_to(folder)}"] = kind
    return rows


def optional() -> dict[str, str]:
    """Returns the version of each optional package, or how to install it."""
    rows = {}
    for module, (package, use, extra) in OPTIONAL.items():
        if importlib.util.find_spec(module) is None:
            rows[package] = f"no (for {use}: {install(extra)})"
        else:
            # TensorFlow may be installed as tensorflow-cpu.
            found = versions_of(package, f"{package}-cpu")
            rows[package] = next(iter(found.values()), "installed")
    rows["ffmpeg"] = "found" if shutil.which("ffmpeg") else "no (for ipt restore of videos)"
    return rows
