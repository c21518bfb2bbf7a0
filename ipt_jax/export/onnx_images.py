"""The network for one task as an ONNX graph that takes images of any size, `[B, 3, H, W]` in 0..1.

Programs that know nothing of tiles feed images in this layout. The graph does what `ipt restore`
does with the protocol "blend": it spreads tiles evenly over the image, restores them, and adds them
with weights that fade out over what neighbours share (`restore/tiling.py`). All of it is computed
from the size of the input, with int64 arithmetic for the places of tiles.

Adding tiles with weights is linear along each axis, so it is a product with a matrix,
`[pixels of the output, tiles * pixels of a tile]`. A loop (Scan) runs over the rows of tiles, so
that the network holds one row at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from onnx import ModelProto, TensorProto, helper

from ipt_jax.export.onnx_graph import Builder, Params, make_model, network
from ipt_jax.model import IPT
from ipt_jax.model.ipt import RGB_MEAN


class _Axis(NamedTuple):
    """Names of what the graph computes for the height or the width.

    Attributes:
      indices: int64 `[tiles, tile]`, the pixels of the image that each tile takes.
      tiles: int64 `[1]`, the number of tiles.
      size: int64 `[1]`, pixels of the output.
      blend: float32 `[size, tiles * tile * scale]`, the matrix that adds the tiles.
    """

    indices: str
    tiles: str
    size: str
    blend: str


class _Integers:
    """int64 arithmetic of a graph; numbers become constants."""

    def __init__(self, b: Builder):
        self._b = b

    def __call__(self, kind: str, *inputs: str | int) -> str:
        names = [x if isinstance(x, str) else self._b.constant([x], np.int64) for x in inputs]
        return self._b.op(kind, *names)

    def range(self, count: str | int) -> str:
        """Returns 0..count - 1."""
        b = self._b
        zero, one = b.constant(0, np.int64), b.constant(1, np.int64)
        if isinstance(count, int):
            return b.constant(np.arange(count), np.int64)
        return b.op("Range", zero, b.op("Squeeze", count), one)


def _axis(b: Builder, dimension: int, tile: int, overlap: int, scale: int) -> _Axis:
    """Adds the places and weights of the tiles along an axis of the input `image`."""
    n = _Integers(b)
    length = b.op("Shape", "image", start=dimension, end=dimension + 1)
    # Where the image is smaller than a tile, it is mirrored, over and over.
    span = n("Sub", n("Max", length, tile), tile)
    gaps = n("Div", n("Add", span, tile - overlap - 1), tile - overlap)
    tiles = n("Add", gaps, 1)
    # round(i * span / gaps), with Python's rounding of halves to the even number.
    divisor = n("Mul", n("Max", gaps, 1), 2)
    dividend = n("Add", n("Mul", n("Mul", n.range(tiles), span), 2), n("Max", gaps, 1))
    rounded = n("Div", dividend, divisor)
    half = b.op("Cast", n("Equal", n("Mod", dividend, divisor), 0), to=TensorProto.INT64)
    starts = n("Sub", rounded, n("Mul", half, n("Mod", rounded, 2)))

    last = b.constant([-1], np.int64)
    column = n("Unsqueeze", starts, 1)
    inside = n("Mod", n("Add", column, n.range(tile)), n("Mul", length, 2))
    mirrored = n("Sub", n("Sub", n("Mul", length, 2), 1), inside)
    indices = n("Min", inside, mirrored)

    # Pixels that a tile shares with its neighbours, over the side of a tile; 1e-9 for none.
    side = tile * scale
    first = b.op("Slice", starts, b.constant([0], np.int64), last)
    second = b.op("Slice", starts, b.constant([1], np.int64), b.constant([2**62], np.int64))
    common = b.op("Cast", n("Sub", n("Add", first, tile), second), to=TensorProto.FLOAT)
    shares = b.op("Max", b.op("Div", common, b.constant([tile], np.float32)), _tiny(b))
    centres = ((np.arange(side) + 0.5) / side).astype(np.float32)
    before = _ramp(b, b.op("Concat", _tiny(b), shares, axis=0), centres)
    after = _ramp(b, b.op("Concat", shares, _tiny(b), axis=0), 1 - centres)
    weights = b.op("Mul", before, after)

    # Row y of the matrix has the weight of pixel k of tile i where starts[i] * scale + k = y.
    size = n("Mul", length, scale)
    at = n("Add", n("Mul", column, scale), n.range(side))
    flat = b.op("Reshape", at, b.constant([1, -1], np.int64))
    hit = b.op("Equal", n("Unsqueeze", n.range(size), 1), flat)
    matrix = b.op(
        "Mul",
        b.op("Cast", hit, to=TensorProto.FLOAT),
        b.op("Reshape", weights, b.constant([1, -1], np.int64)),
    )
    total = b.op("ReduceSum", matrix, b.constant([1], np.int64), keepdims=1)
    return _Axis(indices, tiles, size, b.op("Div", matrix, total))


def _tiny(b: Builder) -> str:
    return b.constant([1e-9], np.float32)


def _ramp(b: Builder, shares: str, distances: np.ndarray) -> str:
    """Adds sin^2 ramps `[tiles, side]` over the shares `[tiles]` of a tile."""
    part = b.op(
        "Div",
        b.constant(distances, np.float32),
        b.op("Unsqueeze", shares, b.constant([1], "int64")),
    )
    clipped = b.op("Clip", part, b.constant(0, np.float32), b.constant(1, np.float32))
    sine = b.op("Sin", b.op("Mul", clipped, b.constant(np.pi / 2, np.float32)))
    return b.op("Mul", sine, sine)


def build_image_graph(
    model: IPT,
    params: Params,
    task: str,
    scale: int,
    dtype: str,
    overlap: int,
    metadata: Mapping[str, str],
) -> ModelProto:
    """Returns the graph of a task for images.

    Its input `image` is float32 `[batch, 3, height, width]`, RGB in 0..1, of any size. Its output
    `restored` is float32 `[batch, 3, height * scale, width * scale]`, neither clipped nor rounded.

    Args:
      model, params, task, scale, dtype, metadata: see `onnx_graph.build_graph`.
      overlap: minimum number of pixels that neighbouring tiles share.
    """
    b, tile = Builder(dtype), model.tile
    side = tile * scale
    rows, columns = (_axis(b, dimension, tile, overlap, scale) for dimension in (2, 3))
    factor = np.float32(255 / model.input_scale)
    mean = np.asarray(RGB_MEAN, np.float32).reshape(3, 1, 1)
    x = b.op("Mul", "image", b.constant(factor, np.float32))
    centred = b.op("Sub", x, b.constant(mean / model.input_scale, np.float32))
    spread = b.op("Transpose", columns.blend, perm=(1, 0))

    # The body of the loop: a row of tiles, `[tile]` indices of pixels -> `[batch, 3, side, width]`.
    outer, b.nodes = b.nodes, []
    strip = b.op("Gather", centred, "row", axis=2)
    cut = b.transpose(b.op("Gather", strip, columns.indices, axis=3), 0, 3, 1, 2, 4)
    tiles = network(b, model, params, task, scale, b.reshape(cut, 3, tile, tile))
    shape = b.op(
        "Concat",
        b.constant([-1], np.int64),
        columns.tiles,
        b.constant([3, side, side], np.int64),
        axis=0,
    )
    joined = b.transpose(b.op("Reshape", tiles, shape), 0, 2, 3, 1, 4)
    flat = b.op("Reshape", joined, b.constant([0, 0, 0, -1], np.int64))
    b.nodes.append(helper.make_node("MatMul", [flat, spread], ["strip"], name="strip"))
    body = helper.make_graph(
        b.nodes,
        "row_of_tiles",
        [helper.make_tensor_value_info("row", TensorProto.INT64, [tile])],
        [helper.make_tensor_value_info("strip", TensorProto.FLOAT, ["batch", 3, side, "right"])],
    )
    b.nodes = outer
    strips = b.op("Scan", rows.indices, body=body, num_scan_inputs=1)

    shape = b.op("Concat", b.constant([0, 0, -1], np.int64), columns.size, axis=0)
    flat = b.op("Reshape", b.transpose(strips, 1, 2, 0, 3, 4), shape)
    whole = b.op("MatMul", rows.blend, flat)
    x = b.op("Div", whole, b.constant(factor, np.float32))
    shift = b.constant(mean / np.float32(255), np.float32)
    b.nodes.append(helper.make_node("Add", [x, shift], ["restored"], name="restored"))
    return make_model(
        b,
        f"ipt_{task}",
        {"image": ["batch", 3, "height", "width"]},
        {"restored": ["batch", 3, "restored_height", "restored_width"]},
        metadata,
    )
