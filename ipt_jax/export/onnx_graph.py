"""The network for one task as an ONNX graph.

The graph is built with onnx's helpers rather than converted from jax, because the architecture is
fixed and small.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ipt_jax.model import IPT
from ipt_jax.model.ipt import RGB_MEAN
from ipt_jax.model.layers import upsampling_steps

OPSET, IR_VERSION = 17, 8
Params = Mapping[str, Any]


class Builder:
    """The nodes and constants of a graph.

    Each method adds nodes and returns the name of their result.

    Args:
      dtype: "float32" or "float16", the dtype in which the graph computes.
    """

    def __init__(self, dtype: str):
        self.dtype = np.dtype(dtype)
        self.nodes: list[NodeProto] = []
        self._operators = 0
        self.constants: dict[str, Any] = {}

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds an operator of this kind."""
        name = f"{kind.lower()}_{self._operators}"
        self._operators += 1
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, value: Any, dtype: Any = None) -> str:
        """Adds a constant, by default with the dtype of the graph."""
        name = f"constant_{len(self.constants)}"
        array = np.ascontiguousarray(
            np.asarray(value).astype(self.dtype if dtype is None else dtype)
        )
        self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def cast(self, x: str, dtype: Any) -> str:
        """Casts to a dtype; does nothing in a float32 graph."""
        if self.dtype == np.float32:
            return x
        return self.op("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def reshape(self, x: str, *shape: int) -> str:
        """Reshapes to `[batch, *shape]`."""
        return self.op("Reshape", x, self.constant((-1, *shape), np.int64))

    def transpose(self, x: str, *order: int) -> str:
        """Reorders the axes."""
        return self.op("Transpose", x, perm=order)

    def product(self, x: str, params: Params) -> str:
        """Adds a linear layer over the last axis."""
        out = self.op("MatMul", x, self.constant(params["kernel"]))
        return self.op("Add", out, self.constant(params["bias"])) if "bias" in params else out

    def conv(self, x: str, params: Params) -> str:
        """Adds a convolution that keeps the size of the image `[batch, channels, H, W]`."""
        # ONNX kernels are [out, in, rows, columns].
        kernel = np.asarray(params["kernel"]).transpose(3, 2, 0, 1)
        side = kernel.shape[2]
        return self.op(
            "Conv",
            x,
            self.constant(kernel),
            self.constant(params["bias"]),
            kernel_shape=(side, side),
            pads=(side // 2,) * 4,
        )

    def norm(self, x: str, params: Params, eps: float) -> str:
        """Adds a LayerNorm, which computes in float32."""
        scale, bias = (self.constant(params["norm"][key], np.float32) for key in ("scale", "bias"))
        wide = self.op(
            "LayerNormalization", self.cast(x, np.float32), scale, bias, axis=-1, epsilon=eps
        )
        return self.cast(wide, self.dtype)

    def attention(self, model: IPT, params: Params, query: str, key: str, value: str) -> str:
        """Adds a multi-head attention over tokens `[batch, tokens, width]`."""
        d, n, heads = model.width, model.tokens, model.heads
        size = d // heads
        kernel = np.asarray(params["qkv"])
        # The factor is folded into the query's kernel in float32, where it loses no accuracy.
        parts = (kernel[:, :d] * np.float32(size**-0.5), kernel[:, d : 2 * d], kernel[:, 2 * d :])

        def split(x: str, part: np.ndarray, *order: int) -> str:
            return self.transpose(
                self.reshape(self.op("MatMul", x, self.constant(part)), n, heads, size), *order
            )

        q, k, v = (
            split(query, parts[0], 0, 2, 1, 3),
            split(key, parts[1], 0, 2, 3, 1),
            split(value, parts[2], 0, 2, 1, 3),
        )
        logits = self.cast(self.op("MatMul", q, k), np.float32)
        weights = self.cast(self.op("Softmax", logits, axis=-1), self.dtype)
        mixed = self.reshape(self.transpose(self.op("MatMul", weights, v), 0, 2, 1, 3), n, d)
        return self.product(mixed, params["out"])

    def feed_forward(self, x: str, params: Params) -> str:
        """Adds the two linear layers of a transformer layer with a ReLU between them."""
        return self.product(self.op("Relu", self.product(x, params["in"])), params["out"])


def _layer(stack: Params, i: int) -> dict[str, Any]:
    """Returns the parameters of one layer of a stack."""
    return {
        key: _layer(value, i) if isinstance(value, Mapping) else np.asarray(value)[i]
        for key, value in stack.items()
    }


def _body(b: Builder, model: IPT, params: Params, tokens: str, embedding: str) -> str:
    """Adds the transformer, from tokens to tokens `[batch, tokens, width]`."""
    eps = model.norm_eps
    if not model.encoder_layers + model.decoder_layers:
        return b.op("Add", tokens, b.constant(params["position"]))
    x = b.op(
        "Add",
        b.op("Add", b.product(tokens, params["linear"]), tokens),
        b.constant(params["position"]),
    )
    for i in range(model.encoder_layers):
        layer = _layer(params["encoder"], i)
        y = b.norm(x, layer["norm1"], eps)
        x = b.op("Add", x, b.attention(model, layer["self_attention"], y, y, y))
        x = b.op("Add", x, b.feed_forward(b.norm(x, layer["norm2"], eps), layer["feed_forward"]))
    memory = x
    for i in range(model.decoder_layers):
        layer = _layer(params["decoder"], i)
        y = b.norm(x, layer["norm1"], eps)
        q = b.op("Add", y, embedding)
        x = b.op("Add", x, b.attention(model, layer["self_attention"], q, q, y))
        q = b.op("Add", b.norm(x, layer["norm2"], eps), embedding)
        known = b.norm(memory, layer["norm_memory"], eps) if model.memory_norm else memory
        x = b.op("Add", x, b.attention(model, layer["cross_attention"], q, known, known))
        x = b.op("Add", x, b.feed_forward(b.norm(x, layer["norm3"], eps), layer["feed_forward"]))
    return b.op("Add", x, b.feed_forward(x, params["mlp"]))


def network(b: Builder, model: IPT, params: Params, task: str, scale: int, centred: str) -> str:
    """Adds the network of a task.

    It goes from tiles `[batch, 3, tile, tile]`, in the units of `input_scale` and without the mean,
    to float32 `[batch, 3, tile * scale, tile * scale]` in the same units.
    """
    mine, tile, side, patch, features = (
        params[f"task_{task}"],
        model.tile,
        model.tile // model.patch,
        model.patch,
        model.features,
    )
    x = b.conv(b.cast(centred, b.dtype), mine["head"]["conv"])
    for block in ("block1", "block2"):
        inner = b.op("Relu", b.conv(x, mine["head"][block]["conv1"]))
        x = b.op("Add", x, b.conv(inner, mine["head"][block]["conv2"]))
    cut = b.transpose(b.reshape(x, features, side, patch, side, patch), 0, 2, 4, 1, 3, 5)
    tokens = _body(
        b,
        model,
        params["body"],
        b.reshape(cut, model.tokens, model.width),
        b.constant(mine["embedding"]),
    )
    cut = b.transpose(b.reshape(tokens, side, side, features, patch, patch), 0, 3, 1, 4, 2, 5)
    x = b.op("Add", x, b.reshape(cut, features, tile, tile))
    for i, step in enumerate(upsampling_steps(scale)):
        x = b.op("DepthToSpace", b.conv(x, mine["tail"][f"up{i}"]), blocksize=step, mode="CRD")
    return b.cast(b.conv(x, mine["tail"]["conv"]), np.float32)


def build_graph(
    model: IPT, params: Params, task: str, scale: int, dtype: str, metadata: Mapping[str, str]
) -> ModelProto:
    """Returns the graph of a task for tiles.

    Its input `patches` is float32 `[batch, tile, tile, 3]`, RGB in 0..255. Its output `restored` is
    float32 `[batch, tile * scale, tile * scale, 3]`.

    Args:
      model: the network.
      params: its parameters.
      task: name of the task.
      scale: scale of the task.
      dtype: "float32" or "float16", the dtype in which the graph computes. LayerNorm, softmax,
        input and output stay float32.
      metadata: texts that describe the file.
    """
    b, tile = Builder(dtype), model.tile
    mean = b.constant(RGB_MEAN, np.float32)
    factor = b.constant(model.input_scale, np.float32)
    x = b.op("Sub", "patches", mean)
    x = b.op("Div", x, factor) if model.input_scale != 1 else x
    x = network(b, model, params, task, scale, b.transpose(x, 0, 3, 1, 2))
    x = b.transpose(x, 0, 2, 3, 1)
    x = b.op("Mul", x, factor) if model.input_scale != 1 else x
    b.nodes.append(helper.make_node("Add", [x, mean], ["restored"], name="restored"))
    return make_model(
        b,
        f"ipt_{task}",
        {"patches": ["batch", tile, tile, 3]},
        {"restored": ["batch", tile * scale, tile * scale, 3]},
        metadata,
    )


def make_model(
    b: Builder,
    name: str,
    inputs: Mapping[str, Sequence[str | int]],
    outputs: Mapping[str, Sequence[str | int]],
    metadata: Mapping[str, str],
) -> ModelProto:
    """Returns the model of a graph with float32 inputs and outputs of these shapes."""

    def infos(shapes: Mapping[str, Sequence[str | int]]) -> list[Any]:
        return [
            helper.make_tensor_value_info(key, TensorProto.FLOAT, shape)
            for key, shape in shapes.items()
        ]

    used = set(_names_used(b.nodes))
    graph = helper.make_graph(
        b.nodes,
        name,
        infos(inputs),
        infos(outputs),
        [tensor for key, tensor in b.constants.items() if key in used],
    )
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="ipt_jax",
    )
    helper.set_model_props(made, dict(metadata))
    return made


def _names_used(nodes: Iterable[NodeProto]) -> Iterator[str]:
    """Yields the names of what nodes read, those in the bodies of loops included."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _names_used(attribute.g.node)
