"""Files of named tensors, read without executing anything that they contain."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import pickle
import re
import struct
import tokenize
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ipt_jax.errors import NotRegular, WeightsError
from ipt_jax.messages import first_line, listed, printable
from ipt_jax.storage import open_regular, read_regular
from ipt_jax.versions import install
from ipt_jax.weights import mindspore

FORMATS = ".pt, .pth, .safetensors, .npz, or MindSpore's .ckpt"
# Bytes of the largest file that is read, and of its tensors as float32. IPT has 0.5 GB.
LARGEST = 16 << 30
# Keys under which training code stores the tensors beside other things.
# The first that a file has counts: the EMA before the raw values.
WRAPPERS = (
    "params_ema",
    "state_dict_ema",
    "ema",
    "params",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "net_g",
    "generator",
)
# Prefixes that training code puts before the names.
PREFIXES = ("module.", "model.", "net.", "network.", "_orig_mod.", "net_g.", "generator.", "ema.")
# What zipfile and struct raise for a damaged file, in addition to their own errors: an unknown
# version or compression method, or an encryption flag.
_DAMAGE = (
    ValueError,
    OSError,
    EOFError,
    RuntimeError,
    OverflowError,
    struct.error,
    zipfile.BadZipFile,
)
# What numpy raises for a damaged header of an array, which it parses as a Python literal.
_BAD_HEADER = (ValueError, SyntaxError, TypeError, RecursionError, tokenize.TokenError)


@dataclasses.dataclass(frozen=True)
class TensorFile:
    """The content of a file of tensors.

    Attributes:
      tensors: the tensors by name; floating-point tensors are float32.
      hints: what an export of this project states beside the tensors (tasks, attention heads,
        LayerNorm eps); {} for other files.
      mindspore: whether the file is a MindSpore checkpoint.
    """

    tensors: dict[str, np.ndarray]
    hints: dict[str, str] = dataclasses.field(default_factory=dict)
    mindspore: bool = False


def sha256_of(file: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    with open_regular(file) as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


def read_tensor_file(path: Path) -> TensorFile:
    """Reads a file of tensors, without the wrappers and prefixes that training code adds.

    The first bytes of the file tell its format, not its name.

    Raises:
      WeightsError: the file has another format, is cut short, or contains something other than
        tensors; the message names the file.
    """
    try:
        content = _read(path)
    except NotRegular as error:
        raise WeightsError(f"{path}: {error.strerror}") from None
    except MemoryError:
        raise WeightsError(f"{path}: it announces more data than fits into memory") from None
    except _DAMAGE as error:
        cut = "cut short or damaged: " if isinstance(error, zipfile.BadZipFile) else ""
        raise WeightsError(f"{path}: {cut}{first_line(error)}; weights are {FORMATS}") from None
    tensors = {name: _as_float32(value) for name, value in content.tensors.items()}
    return dataclasses.replace(content, tensors=_without_prefixes(tensors))


def _read(path: Path) -> TensorFile:
    with open_regular(path, LARGEST) as file:
        start = file.read(16)
    if not start:
        raise WeightsError("an empty file")
    # Safetensors is tested first, because its first 8 bytes are a length and may be any bytes.
    if start[8:9] == b"{":
        return _read_safetensors(path)
    if start.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            torch = any(name.endswith("data.pkl") for name in archive.namelist())
        return _read_torch(path) if torch else _read_npz(path)
    if start.startswith(b"\x80"):
        return _read_torch(path)
    if path.suffix == ".safetensors":
        raise WeightsError("not a safetensors file, or its header is corrupt")
    # A MindSpore checkpoint starts with the tag of a tensor. A large file of something else is not
    # read.
    if not start.startswith(b"\n") and path.stat().st_size > 1 << 20:
        raise WeightsError("not a MindSpore checkpoint, or cut short")
    return _read_mindspore(path)


def _as_float32(array: np.ndarray) -> np.ndarray:
    # numpy does not count the types of ml_dtypes as floating point.
    floating = array.dtype.kind == "f" or array.dtype.name.startswith(("bfloat16", "float8"))
    return array.astype(np.float32) if floating else array


def _without_prefixes(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    while True:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None)
        if prefix is None or not state:
            return state
        state = {name.removeprefix(prefix): value for name, value in state.items()}


def _texts(found: Any) -> dict[str, str]:
    """Returns the hints that are texts."""
    if not isinstance(found, Mapping):
        return {}
    return {str(key): value for key, value in found.items() if isinstance(value, str)}


def _read_mindspore(path: Path) -> TensorFile:
    found = mindspore.parse_checkpoint(read_regular(path, LARGEST))
    tensors = {
        mindspore.their_name(name): value
        for name, value in found.items()
        if not mindspore.is_training_state(name)
    }
    return TensorFile(tensors, mindspore=True)


def _read_safetensors(path: Path) -> TensorFile:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
            _check_total(sum(map(math.prod, shapes)))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return TensorFile(tensors, _texts(file.metadata()))
    except WeightsError:
        raise
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise WeightsError(f"not an intact safetensors file ({first_line(error)})") from None


def stated_tasks(path: Path) -> str:
    """Returns the tasks that a safetensors file states in its header; "" if it states none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return _texts(file.metadata()).get("tasks", "")
    except (OSError, SafetensorError, ValueError):
        return ""


def _check_total(elements: int) -> None:
    """Raises WeightsError if so many elements, as float32, have more than `LARGEST` bytes."""
    if 4 * elements > LARGEST:
        raise WeightsError(
            f"its tensors have {elements:,} elements, more than the limit of {LARGEST // 4:,}"
        )


def _check_archive(archive: zipfile.ZipFile, size: int) -> None:
    """Checks that reading an archive takes no more memory than its file has bytes.

    Raises:
      WeightsError: an entry is compressed, or the entries announce more than `size` bytes.
    """
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_STORED:
            raise WeightsError(
                f"{printable(entry.filename)} is compressed; save with torch.save or numpy.savez, "
                "which do not compress"
            )
    announced = sum(entry.file_size for entry in archive.infolist())
    if announced > size:
        raise WeightsError(f"it announces {announced:,} bytes, which is more than its size")


def _read_torch(path: Path) -> TensorFile:
    try:
        import torch
    except ImportError:
        raise WeightsError(
            f"reading a PyTorch file needs torch, which is not installed: {install('torch')}, or "
            "convert the file to .safetensors on another machine"
        ) from None
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, size)
    try:
        with warnings.catch_warnings():
            # torch warns about pickle protocols before it refuses a file.
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # The rest of torch's message explains how to execute the file, which is not wanted here.
        found = re.search(r"GLOBAL (\S+)", str(error))
        raise WeightsError(
            "refused: it contains something other than tensors, which could execute code"
            + (f" ({found[1]})" if found else "")
        ) from None
    # torch raises nearly any exception for a damaged file.
    except Exception as error:
        raise WeightsError(
            f"not an intact PyTorch file ({type(error).__name__}: {first_line(error)[:120]})"
        ) from None
    metadata = getattr(loaded, "_metadata", None)
    own = metadata.get("") if isinstance(metadata, Mapping) else None
    hints = _texts(own.get("ipt_jax")) if isinstance(own, Mapping) else {}
    tensors = _unwrapped(loaded, torch.Tensor)
    for name, tensor in tensors.items():
        _check_torch_tensor(name, tensor, torch.strided)
    announced = sum(value.numel() * value.element_size() for value in tensors.values())
    # A few stored numbers can stand for a large tensor, whose strides are then 0.
    if announced > size:
        raise WeightsError(
            f"its tensors announce {announced:,} bytes, which is more than the file has "
            f"({size:,}); save clones of tensors that share their memory"
        )
    _check_total(sum(value.numel() for value in tensors.values()))

    def as_numpy(tensor: Any) -> np.ndarray:
        tensor = tensor.detach().resolve_conj().resolve_neg()
        tensor = tensor.to(torch.float32) if tensor.is_floating_point() else tensor
        array: np.ndarray = tensor.contiguous().numpy()
        return array

    return TensorFile({name: as_numpy(value) for name, value in tensors.items()}, hints)


def _check_torch_tensor(name: str, tensor: Any, strided: Any) -> None:
    """Raises WeightsError unless a tensor has values that numpy can hold."""
    wrong = ""
    if tensor.device.type == "meta":
        wrong = "is a meta tensor, which has a shape and no values"
    elif tensor.is_quantized:
        wrong = "is quantised; save tensor.dequantize()"
    elif tensor.layout != strided:
        wrong = f"has the layout {tensor.layout}; save tensor.to_dense()"
    elif tensor.is_nested:
        wrong = "is a nested tensor"
    if wrong:
        raise WeightsError(f"{printable(name)} {wrong}")


def _unwrapped(loaded: Any, kind: type) -> dict[str, Any]:
    """Returns the dict of tensors within `{"params_ema": ..., "epoch": ...}` and the like.

    Args:
      loaded: the content of a file.
      kind: the class of tensors.

    Raises:
      WeightsError: it is no such dict, or has something other than tensors.
    """
    # A hostile file could contain a dict that contains itself.
    for _ in range(len(WRAPPERS)):
        inner = (
            next((loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), dict)), None)
            if isinstance(loaded, dict)
            else None
        )
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, dict) or not loaded:
        raise WeightsError(f"it contains {type(loaded).__name__}, not named tensors")
    other = [
        f"{key} ({type(value).__name__})"
        for key, value in loaded.items()
        if not isinstance(value, kind)
    ]
    if other:
        raise WeightsError(f"it contains more than named tensors: {listed(other)}")
    return {str(key): value for key, value in loaded.items()}


def _read_npz(path: Path) -> TensorFile:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        for entry in entries:
            if not entry.filename.endswith(".npy"):
                raise WeightsError(f"not an .npz of arrays: it contains {entry.filename}")
        _check_archive(archive, path.stat().st_size)
        return TensorFile(
            {entry.filename.removesuffix(".npy"): _read_npy(archive, entry) for entry in entries}
        )


def _read_npy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """Reads one array, which must be numeric and fill its entry."""
    with archive.open(entry) as stream:
        try:
            array = np.lib.format.read_array(stream, allow_pickle=False)
        except _BAD_HEADER as error:
            raise WeightsError(f"{entry.filename}: {first_line(error)}") from None
        # Reading to the end also makes zipfile compare the checksum.
        if stream.read(1):
            raise WeightsError(f"{entry.filename}: it has more bytes than its header announces")
    if array.dtype.kind not in "fiub":
        raise WeightsError(f"{entry.filename}: arrays of {array.dtype} are not read")
    return array
