"""Files of named tensors, read without running anything that is in them."""

from __future__ import annotations

import pickle
import re
import struct
import tokenize
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ipt_jax.errors import WeightsError
from ipt_jax.messages import first_line
from ipt_jax.weights import mindspore

FORMATS = ".pt, .pth, .safetensors, .npz, or MindSpore's .ckpt"
WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "model", "net")
# What zipfile and struct raise of a damaged file, beside its own error: an unknown version or
# method, a flag of encryption.
_DAMAGE = (
    ValueError,
    OSError,
    EOFError,
    RuntimeError,
    OverflowError,
    struct.error,
    zipfile.BadZipFile,
)
PREFIXES = ("module.", "model.", "net.", "network.", "_orig_mod.")


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file by name, floats as float32, without the wrappings that training code
    puts around them.

    The kind of file is told by its first bytes, never by its name.

    Raises:
      WeightsError: not such a file, cut short, or it holds more than tensors; the message names the
        file.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
        if not start:
            raise WeightsError("an empty file")
        # First: the length before it may begin with any byte
        if start[8:9] == b"{":
            state = _safetensors(path)
        elif start.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                torch = any(name.endswith("data.pkl") for name in archive.namelist())
            state = _torch(path) if torch else _npz(path)
        elif start.startswith(b"\x80"):
            state = _torch(path)
        elif path.suffix == ".safetensors":
            raise WeightsError("not a safetensors file, or its header is corrupt")
        else:
            found = mindspore.read(path.read_bytes())
            state = {
                mindspore.their_name(k): v
                for k, v in found.items()
                if not mindspore.is_training_state(k)
            }
    except (*_DAMAGE, MemoryError) as error:
        if isinstance(error, MemoryError):
            raise WeightsError(f"{path}: announces more than fits into memory") from None
        cut = "cut short or damaged: " if isinstance(error, zipfile.BadZipFile) else ""
        raise WeightsError(f"{path}: {cut}{first_line(error)}; weights are {FORMATS}") from None
    real = {
        k: v.dtype.kind == "f" or v.dtype.name.startswith(("bfloat16", "float8"))
        for k, v in state.items()
    }
    return _unprefixed({k: v.astype(np.float32) if real[k] else v for k, v in state.items()})


def hints(path: Path) -> dict[str, str]:
    """What an export of this project says of itself beside the tensors: its tasks and attention
    heads; {} in others.
    """
    with path.open("rb") as file:
        start = file.read(16)
    found: Any = {}
    if start[8:9] == b"{":
        from safetensors import safe_open

        with safe_open(path, framework="numpy") as opened:
            found = opened.metadata()
    elif start.startswith((b"PK", b"\x80")):
        import torch

        loaded = torch.load(
            path, map_location="cpu", weights_only=True, mmap=start.startswith(b"PK")
        )
        found = (getattr(loaded, "_metadata", None) or {}).get("", {}).get("ipt_jax")
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}


def is_mindspore(path: Path) -> bool:
    """Whether `read` would take it for MindSpore's."""
    with path.open("rb") as file:
        start = file.read(16)
    return not start.startswith((b"PK", b"\x80")) and start[8:9] != b"{"


def _torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise WeightsError(
            "reading a PyTorch file needs torch, which is not installed: pip install "
            "'ipt_jax[torch]', "
            "or save it as .safetensors where there is one"
        ) from None
    try:
        with warnings.catch_warnings():
            # Of pickle protocols, before it is refused
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # The rest is advice on how to run it
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise WeightsError(
            "refused: it holds something else than tensors, which could run code"
            + (f" ({named[1]})" if named else "")
        ) from None
    # Of a damaged file torch raises nearly anything
    except Exception as error:
        raise WeightsError(
            f"not a whole PyTorch file ({type(error).__name__}: {first_line(error)[:120]})"
        ) from None

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            value = value.detach()
            if value.is_floating_point():
                value = value.to(torch.float32)
            return value.contiguous().numpy()
        return {str(k): plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value

    return _unwrapped(plain(loaded))


def _unwrapped(loaded: Any) -> dict[str, np.ndarray]:
    """The dict of tensors within `{"params_ema": ..., "epoch": ...}` and the like."""
    while isinstance(loaded, dict):
        inner = next((loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), dict)), None)
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, dict) or not loaded:
        raise WeightsError(f"it holds {type(loaded).__name__}, not named tensors")
    other = [
        f"{key} ({type(value).__name__})"
        for key, value in loaded.items()
        if not isinstance(value, np.ndarray)
    ]
    if other:
        raise WeightsError(f"not only named tensors in it: {', '.join(other[:5])}")
    return loaded


def _unprefixed(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    while True:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None)
        if prefix is None or not state:
            return state
        state = {name.removeprefix(prefix): value for name, value in state.items()}


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise WeightsError(f"not a whole safetensors file ({first_line(error)})") from None


def _npz(path: Path) -> dict[str, np.ndarray]:
    """Arrays of an .npz, whose headers are believed only where the file holds as many bytes as they
    announce.
    """
    found: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if not entry.filename.endswith(".npy"):
                raise WeightsError(f"not an .npz of arrays: it holds {entry.filename}")
            name = entry.filename.removesuffix(".npy")
            if entry.compress_type != zipfile.ZIP_STORED:
                raise WeightsError(f"{name} is compressed; save with numpy.savez")
            with archive.open(entry) as file:
                found[name] = _npy(file, entry.file_size, name)
    return found


def _npy(file: Any, size: int, name: str) -> np.ndarray:
    from numpy.lib import format as npy

    stream: BinaryIO = file
    try:
        version = npy.read_magic(stream)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = header(stream)
    # It is Python's literals
    except (ValueError, SyntaxError, TypeError, RecursionError, tokenize.TokenError) as error:
        raise WeightsError(f"{name}: {first_line(error)}") from None
    count = 1
    for dim in shape:
        count *= dim
    if (
        dtype.hasobject
        or dtype.kind not in "fiub"
        or count * dtype.itemsize != size - stream.tell()
    ):
        raise WeightsError(
            f"{name}: its header announces {list(shape)} of {dtype}, the file holds {size} bytes"
        )
    flat = np.frombuffer(stream.read(), dtype)
    return flat.reshape(shape, order="F" if fortran else "C")
