"""MindSpore's .ckpt files, read without MindSpore, and the names in its IPT code.

A file is a protocol buffer: a sequence of `Value`s (field 1), each with a tag (1) and a tensor (2)
of dims (1), type (2) and content (3). A large tensor comes in several pieces with the same tag.
Only the parts of the wire format that these files use are implemented.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from ipt_jax.errors import WeightsError

_TYPES = {
    "Float32": "<f4",
    "Float16": "<f2",
    "Float64": "<f8",
    "Int32": "<i4",
    "Int64": "<i8",
    "Int8": "i1",
    "UInt8": "u1",
    "Int16": "<i2",
    "Bool": "?",
}
_RENAMES = (
    (re.compile(r"\.embedding_table$"), ".weight"),
    (re.compile(r"\.layernorm\.gamma$"), ".weight"),
    (re.compile(r"\.layernorm\.beta$"), ".bias"),
    (
        re.compile(r"(\.(?:self_attn|multihead_attn))\.(?:weight|in_proj_layer|in_proj_weight)$"),
        r"\1.in_proj_weight",
    ),
)
_STEP = re.compile(r"^(tail\.\d+\.0)\.net\.(\d+)\.conv\.")
# MindSpore's default; the default of PyTorch and of this project is 1e-5.
LAYER_NORM_EPS = 1e-7


def their_name(name: str) -> str:
    """Returns the PyTorch code's name for a parameter of the MindSpore code."""
    for pattern, new in _RENAMES:
        name = pattern.sub(new, name)
    return _STEP.sub(lambda found: f"{found[1]}.{2 * int(found[2])}.", name)


def is_training_state(name: str) -> bool:
    """Returns whether a tensor belongs to the optimiser rather than to the network."""
    return name.startswith(("moment1.", "moment2.", "moments.", "accum.")) or name in (
        "beta1_power",
        "beta2_power",
        "learning_rate",
        "global_step",
        "scale_sense",
        "current_iterator_step",
        "last_overflow_iterator_step",
        "epoch_num",
        "step_num",
    )


def parse_checkpoint(data: bytes) -> dict[str, np.ndarray]:
    """Returns the tensors of a .ckpt file by MindSpore's names.

    Raises:
      WeightsError: the data has another format, is cut short, or states impossible lengths.
    """
    pieces: dict[str, list[bytes]] = {}
    kinds: dict[str, tuple[list[int], str]] = {}
    for number, value in _fields(data):
        if number != 1 or not isinstance(value, bytes):
            continue
        fields = dict(_fields(value))
        tag, tensor = fields.get(1), fields.get(2)
        if not isinstance(tag, bytes) or not isinstance(tensor, bytes):
            raise WeightsError("not a MindSpore checkpoint: an entry without a name or a tensor")
        name = tag.decode("utf-8", "replace")
        dims: list[int] = []
        kind, content = "", b""
        for inner, item in _fields(tensor):
            if inner == 1:
                dims += [item] if isinstance(item, int) else list(_varints(item))
            elif inner == 2 and isinstance(item, bytes):
                kind = item.decode("utf-8", "replace")
            elif inner == 3 and isinstance(item, bytes):
                content = item
        kinds.setdefault(name, (dims, kind))
        pieces.setdefault(name, []).append(content)
    if not pieces:
        raise WeightsError("not a MindSpore checkpoint: no tensors in it")
    return {name: _array(name, *kinds[name], b"".join(parts)) for name, parts in pieces.items()}


def _array(name: str, dims: list[int], kind: str, content: bytes) -> np.ndarray:
    if kind not in _TYPES:
        raise WeightsError(f"{name}: tensors of type {kind!r} are not supported")
    dtype = np.dtype(_TYPES[kind])
    # MindSpore writes a scalar with these dims.
    if dims == [0]:
        dims = []
    count = 1
    for dim in dims:
        # Python integers, because a product of 64 bits could overflow.
        count *= dim
    if count * dtype.itemsize != len(content):
        raise WeightsError(f"{name}: {len(content)} bytes for {dims} of {kind}")
    return np.frombuffer(content, dtype).reshape(dims)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Returns the integer that starts at a position, and the position after it."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise WeightsError("not a MindSpore checkpoint, or cut short")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _varints(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields (field number, value): an integer, or the bytes of a field of any other wire type."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        size, at = {1: (8, at), 5: (4, at)}.get(wire) or (
            _varint(data, at) if wire == 2 else (-1, at)
        )
        if size < 0 or size > len(data) - at:
            raise WeightsError("not a MindSpore checkpoint, or cut short")
        yield key >> 3, data[at : at + size]
        at += size
