"""IPT: a head, a tail and an embedding for each task around one shared body (Chen et al., CVPR
2021).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ipt_jax.model.init import STARTS, TorchStart
from ipt_jax.model.layers import Body, Head, Tail, features_of, tokens_of
from ipt_jax.tasks import Task

Array = jax.Array

# Of DIV2K, subtracted before and added after
RGB_MEAN = (0.4488 * 255, 0.4371 * 255, 0.4040 * 255)


class TaskEnds(nn.Module):
    """What a task has of its own: head, tail, embedding `[N, D]`."""

    features: int
    tokens: int
    width: int
    scale: int
    start: TorchStart
    dtype: Any

    def setup(self) -> None:
        self.head = Head(self.features, self.start, self.dtype)
        self.tail = Tail(self.scale, self.start, self.dtype)
        self.embedding = self.param(
            "embedding", self.start.embedding(), (self.tokens, self.width), jnp.float32
        )


class IPT(nn.Module):
    """The network for a fixed tile.

    Attributes:
      scales: (task name, scale) pairs, in order.
      features, patch, heads, encoder_layers, decoder_layers, hidden: geometry; D = features *
      patch^2.
      tile: side of the input; a tile gives (tile / patch)^2 tokens.
      input_scale: the network computes in (x - mean) / input_scale.
      start: "torch" or "identity" (see start.py).
      dtype: what is computed in; parameters, LayerNorm and softmax are float32.
      remat: "none", "elementwise", "dots" or "layer" (see layers.REMATERIALISATION).
      out_bias: attention output projections have a bias, as some published files do.
      norm_eps: of LayerNorm: 1e-5 in PyTorch, 1e-7 in the published MindSpore code.
      memory_norm: LayerNorm on what the decoder's cross-attention reads, as the paper writes and
        the authors' code does not.
      gather: makes a layer's parameters, kept in pieces on several devices, whole
        (partition.gather), or None.

    Parameters: `{"body": ..., "task_<name>": {"head", "tail", "embedding"}}`.
    """

    scales: tuple[tuple[str, int], ...]
    features: int = 64
    patch: int = 3
    heads: int = 12
    encoder_layers: int = 12
    decoder_layers: int = 12
    hidden: int = 2304
    tile: int = 48
    input_scale: float = 1.0
    start: str = "torch"
    dtype: Any = jnp.float32
    remat: str = "none"
    out_bias: bool = False
    norm_eps: float = 1e-5
    memory_norm: bool = False
    gather: Any = None

    @property
    def width(self) -> int:
        """Token width D."""
        return self.features * self.patch**2

    @property
    def tokens(self) -> int:
        """Tokens of a tile N."""
        return (self.tile // self.patch) ** 2

    @property
    def names(self) -> tuple[str, ...]:
        """The model's tasks, in order."""
        return tuple(name for name, _ in self.scales)

    def setup(self) -> None:
        start = STARTS[self.start]
        self.body = Body(
            self.patch,
            self.heads,
            self.hidden,
            self.encoder_layers,
            self.decoder_layers,
            start,
            self.dtype,
            self.remat,
            self.out_bias,
            self.norm_eps,
            self.gather,
            self.memory_norm,
        )
        self.task = {
            name: TaskEnds(self.features, self.tokens, self.width, scale, start, self.dtype)
            for name, scale in self.scales
        }

    def __call__(
        self, lq: Mapping[str, Array], shards: int = 1
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Restores a batch of tiles of any of the model's tasks.

        Args:
          lq: `{task: [B, tile, tile, 3]}`, uint8 or float, 0..255; the same B for each task.
          shards: devices over which the batch axis is split. Tasks are joined within a shard, so
            that nothing but gradients ever moves between devices.

        Returns:
          `{task: [B, tile * scale, tile * scale, 3]}` float32, 0..255, neither clipped nor rounded,
          and `{task: [B, N, D]}`, the body's output before the global residual: what the
          contrastive loss sees.

        Raises:
          ValueError: a task the model lacks, or shapes that do not fit.
        """
        names = [name for name in self.names if name in lq]
        if set(names) != set(lq):
            raise ValueError(
                f"the model has no task {sorted(set(lq) - set(names))}; it has {list(self.names)}"
            )
        rows = {x.shape for x in lq.values()}
        if (
            len(rows) != 1
            or next(iter(rows))[1:] != (self.tile, self.tile, 3)
            or next(iter(rows))[0] % shards
        ):
            raise ValueError(
                f"every task needs [B, {self.tile}, {self.tile}, 3] with one B that {shards} "
                "divides, "
                f"not { {name: x.shape for name, x in lq.items()} }"
            )
        mean = jnp.asarray(RGB_MEAN, jnp.float32)
        heads = [
            self.task[name].head((lq[name].astype(jnp.float32) - mean) / self.input_scale)
            for name in names
        ]
        # [S, T, B / S, tile, tile, C]
        x = jnp.stack([h.reshape(shards, -1, *h.shape[1:]) for h in heads], axis=1)
        embedding = jnp.stack([self.task[name].embedding for name in names])[:, None]
        tokens = self.body(tokens_of(x, self.patch), embedding)
        x = x + features_of(tokens, self.patch, self.tile, self.tile)
        outputs, token_dict = {}, {}
        for i, name in enumerate(names):
            out = self.task[name].tail(x[:, i].reshape(-1, *x.shape[3:]))
            outputs[name] = out * self.input_scale + mean
            token_dict[name] = tokens[:, i].reshape(-1, *tokens.shape[3:])
        return outputs, token_dict

    def init_params(self, seed: int) -> dict[str, Any]:
        """Parameters of all tasks, float32, from a seed."""
        tile = jax.ShapeDtypeStruct((1, self.tile, self.tile, 3), jnp.float32)

        def init() -> dict[str, Any]:
            zeros = {name: jnp.zeros(tile.shape, tile.dtype) for name in self.names}
            return self.init(jax.random.key(seed), zeros)["params"]

        return jax.jit(init)()


# What a file of weights must say beside its tensors: what the network computes with them.
GEOMETRY = (
    "features",
    "patch",
    "heads",
    "encoder_layers",
    "decoder_layers",
    "hidden",
    "tile",
    "input_scale",
    "out_bias",
    "norm_eps",
    "memory_norm",
)


def build(model: Mapping[str, Any], tasks: Iterable[Task]) -> IPT:
    """The network that a config's `model` part and tasks describe."""
    fields = dict(model)
    fields["dtype"] = jnp.dtype(fields["dtype"])
    return IPT(scales=tuple((task.name, task.scale) for task in tasks), **fields)
