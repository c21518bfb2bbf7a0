"""IPT (Chen et al., CVPR 2021): head, tail and embedding for each task, and a shared body."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ipt_jax.errors import ConfigError
from ipt_jax.model.fused_attention import SIZE_UNIT, TOKENS_UNIT, FusedAttention, fits
from ipt_jax.model.init import STARTS, TorchStart
from ipt_jax.model.layers import Body, Head, Tail, features_of, tokens_of
from ipt_jax.tasks import Task

Array = jax.Array

# The mean of DIV2K. The network subtracts it from its input and adds it to its output.
RGB_MEAN = (0.4488 * 255, 0.4371 * 255, 0.4040 * 255)


class TaskEnds(nn.Module):
    """The parameters of one task: head, tail and embedding `[N, D]`."""

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
    """The network for tiles of one size.

    Its parameters are `{"body": ..., "task_<name>": {"head", "tail", "embedding"}}`.

    Attributes:
      scales: (task name, scale) pairs, in the order of the tasks.
      features: channels C of a head's output.
      patch: side of a patch, in pixels; the token width is D = features * patch^2.
      heads: attention heads.
      encoder_layers, decoder_layers: the number of layers.
      hidden: hidden width of the feed-forward layers.
      tile: side of the input, in pixels; a tile has N = (tile / patch)^2 tokens.
      input_scale: the network computes with (x - mean) / input_scale.
      start: the initialisation, "torch" or "identity" (see init.py).
      dtype: of the computation. Parameters, LayerNorm and softmax are float32.
      remat: "none", "elementwise", "dots" or "layer" (see layers.REMATERIALISATION).
      out_bias: attention's output projections have a bias, as in some published files.
      norm_eps: epsilon of LayerNorm: 1e-5 in PyTorch, 1e-7 in the published MindSpore code.
      memory_norm: LayerNorm on the input of the decoder's cross-attention. The paper has it, the
        authors' code does not.
      kernel: how attention is computed: None for plain matrix products, a `FusedAttention` for
        TPUs, "cudnn" for GPUs. It changes only the rounding.
      gather: a function that collects a layer's parameters from the devices among which they are
        split (distributed.sharding.gather), or None.
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
    kernel: FusedAttention | str | None = None

    @property
    def width(self) -> int:
        """The token width D."""
        return self.features * self.patch**2

    @property
    def tokens(self) -> int:
        """The number N of tokens of a tile."""
        return (self.tile // self.patch) ** 2

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tasks, in order."""
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
            self.kernel,
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
          lq: `{task: [B, tile, tile, 3]}`, uint8 or float, 0..255, with the same B for each task.
          shards: the number of devices among which the batch axis is split. Tasks are concatenated
            within a shard, so that only gradients move between devices.

        Returns:
          `{task: [B, tile * scale, tile * scale, 3]}`, float32, 0..255, neither clipped nor
          rounded; and `{task: [B, N, D]}`, the body's output before the global residual, which is
          the input of the contrastive loss.

        Raises:
          ValueError: the model does not have a task, or shapes do not fit.
        """
        names = [name for name in self.names if name in lq]
        if set(names) != set(lq):
            raise ValueError(
                f"the model has no task {sorted(set(lq) - set(names))}; it has {list(self.names)}"
            )
        shapes = {name: x.shape for name, x in lq.items()}
        first = next(iter(shapes.values()), ())
        if (
            len(set(shapes.values())) != 1
            or first[1:] != (self.tile, self.tile, 3)
            or first[0] % shards
        ):
            raise ValueError(
                f"every task needs [B, {self.tile}, {self.tile}, 3], with the same B for each task "
                f"and B divisible by {shards}, not {shapes}"
            )
        mean = jnp.asarray(RGB_MEAN, jnp.float32)
        heads = [
            self.task[name].head((lq[name].astype(jnp.float32) - mean) / self.input_scale)
            for name in names
        ]
        # [shards, tasks, B / shards, tile, tile, C]
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
        """Returns the initial parameters of all tasks, float32, drawn from a seed."""
        tile = jax.ShapeDtypeStruct((1, self.tile, self.tile, 3), jnp.float32)

        def init() -> dict[str, Any]:
            zeros = {name: jnp.zeros(tile.shape, tile.dtype) for name in self.names}
            return self.clone(kernel=None).init(jax.random.key(seed), zeros)["params"]

        return jax.jit(init)()


# The fields that a file of weights needs beside its tensors, to define what the network computes.
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


def build(
    model: Mapping[str, Any], tasks: Iterable[Task], mesh: jax.sharding.Mesh | None = None
) -> IPT:
    """Returns the network of a config's `model` part and tasks.

    Args:
      model: the `model` part.
      tasks: the tasks.
      mesh: the devices on which it will train; without them, attention is plain.

    Raises:
      ConfigError: `model.attention` is not possible on these devices or with this model.
    """
    fields = dict(model)
    wanted = fields.pop("attention", "plain")
    fields["dtype"] = jnp.dtype(fields["dtype"])
    network = IPT(scales=tuple((task.name, task.scale) for task in tasks), **fields)
    return network if mesh is None else network.clone(kernel=choose_kernel(wanted, network, mesh))


def choose_kernel(
    wanted: str, network: IPT, mesh: jax.sharding.Mesh
) -> FusedAttention | str | None:
    """Returns the kernel for `model.attention`; see `IPT.kernel`.

    `auto` is the fused kernel on TPUs where it can be used, else plain.

    Raises:
      ConfigError: what is asked for cannot run on these devices or with this model.
    """
    platform, size = mesh.devices.flat[0].platform, network.width // network.heads
    half = network.dtype == jnp.bfloat16
    fused = FusedAttention(network.tokens, mesh)
    if wanted == "auto":
        return fused if platform == "tpu" and half and fits(network.tokens, size) else None
    if wanted == "plain":
        return None
    needed = "tpu" if wanted == "fused" else "gpu"
    reasons = []
    if platform != needed:
        reasons.append(f"devices of kind {needed} (there are {platform})")
    if not half:
        reasons.append(f"model.dtype=bfloat16 (it is {network.dtype})")
    if wanted == "fused" and not fits(network.tokens, size):
        reasons.append(
            f"a multiple of {TOKENS_UNIT} tokens and of {SIZE_UNIT} features a head (there are "
            f"{network.tokens} and {size})"
        )
    if reasons:
        raise ConfigError(
            f"model.attention={wanted} needs {', and '.join(reasons)}; use auto or plain"
        )
    return fused if wanted == "fused" else wanted


def kernel_name(kernel: FusedAttention | str | None) -> str:
    """Returns the `model.attention` that chooses a kernel: "plain", "fused" or "cudnn"."""
    if kernel is None:
        return "plain"
    return "fused" if isinstance(kernel, FusedAttention) else kernel
