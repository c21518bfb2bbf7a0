"""Layers of the network (section 3.1 of the paper): head, body with encoder and decoder, tail.

Shapes: B images, C features, N tokens of width D = C * patch^2. Parameters, LayerNorm and softmax
are float32; everything else is computed in `dtype`.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ipt_jax.model.attention import Attention
from ipt_jax.model.dense import Array, Dtype, dense, precision
from ipt_jax.model.fused_attention import FusedAttention
from ipt_jax.model.init import TorchStart
from ipt_jax.model.norms import LayerNorm


def tokens_of(features: Array, patch: int) -> Array:
    """Returns the patches of an image: `[..., H, W, C]` -> `[..., N, C * patch^2]`.

    Patches are in row order. The values of a patch are in (channel, row, column) order.
    """
    *lead, height, width, channels = features.shape
    rows, columns = height // patch, width // patch
    cut = features.reshape(*lead, rows, patch, columns, patch, channels)
    n = len(lead)
    cut = cut.transpose(*range(n), n, n + 2, n + 4, n + 1, n + 3)
    return cut.reshape(*lead, rows * columns, channels * patch * patch)


def features_of(tokens: Array, patch: int, height: int, width: int) -> Array:
    """The inverse of `tokens_of`: `[..., N, C * patch^2]` -> `[..., height, width, C]`."""
    *lead, _, size = tokens.shape
    rows, columns, channels = height // patch, width // patch, size // (patch * patch)
    cut = tokens.reshape(*lead, rows, columns, channels, patch, patch)
    n = len(lead)
    cut = cut.transpose(*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return cut.reshape(*lead, height, width, channels)


def pixel_shuffle(features: Array, scale: int) -> Array:
    """Enlarges features: `[B, H, W, C * scale^2]` -> `[B, H * scale, W * scale, C]`.

    Channels have the order of PyTorch's PixelShuffle.
    """
    batch, height, width, channels = features.shape
    cut = features.reshape(batch, height, width, channels // scale**2, scale, scale)
    return cut.transpose(0, 1, 4, 2, 5, 3).reshape(batch, height * scale, width * scale, -1)


def conv(
    out: int, side: int, kernel_init: Any, bias_init: Any, dtype: Dtype, name: str | None = None
) -> nn.Conv:
    """Returns a convolution that keeps height and width by zero padding."""
    return nn.Conv(
        out,
        (side, side),
        padding="SAME",
        dtype=dtype,
        precision=precision(dtype),
        kernel_init=kernel_init,
        bias_init=bias_init,
        name=name,
    )


class FeedForward(nn.Module):
    """Two linear layers, `D -> hidden -> D`, with ReLU between them."""

    hidden: int
    start: TorchStart
    dtype: Dtype
    depth: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width, start = x.shape[-1], self.start
        x = dense(self.hidden, start.kernel(width), start.bias(width), self.dtype, "in")(x)
        # With a fused kernel, `elementwise` keeps the array of this name.
        x = checkpoint_name(x, "hidden")
        out = dense(
            width,
            start.residual(self.hidden, self.depth),
            start.residual_bias(self.hidden),
            self.dtype,
            "out",
        )
        return out(nn.relu(x))


class EncoderLayer(nn.Module):
    """Pre-LN self-attention and feed-forward, as the body of a scan."""

    heads: int
    hidden: int
    start: TorchStart
    dtype: Dtype
    depth: int
    out_bias: bool = False
    norm_eps: float = 1e-5
    kernel: FusedAttention | str | None = None

    @nn.compact
    def __call__(self, x: Array, _: None = None) -> tuple[Array, None]:
        attention = Attention(
            self.heads,
            self.start,
            self.dtype,
            self.depth,
            out_bias=self.out_bias,
            kernel=self.kernel,
            name="self_attention",
        )
        by_hand = isinstance(self.kernel, FusedAttention)
        y = LayerNorm(self.dtype, self.norm_eps, by_hand, name="norm1")(x)
        x = x + attention(y, y, y)
        y = LayerNorm(self.dtype, self.norm_eps, by_hand, name="norm2")(x)
        return x + FeedForward(
            self.hidden, self.start, self.dtype, self.depth, name="feed_forward"
        )(y), None


class DecoderLayer(nn.Module):
    """Pre-LN self-attention, cross-attention and feed-forward, as the body of a scan.

    The task embedding is added to the queries, and to the keys of the self-attention. The memory is
    the encoder's output. As in the authors' code, it has no LayerNorm; `memory_norm` adds the one
    of the paper.
    """

    heads: int
    hidden: int
    start: TorchStart
    dtype: Dtype
    depth: int
    out_bias: bool = False
    norm_eps: float = 1e-5
    kernel: FusedAttention | str | None = None
    memory_norm: bool = False

    @nn.compact
    def __call__(self, x: Array, memory: Array, embedding: Array) -> tuple[Array, None]:
        def attention(name: str) -> Attention:
            return Attention(
                self.heads,
                self.start,
                self.dtype,
                self.depth,
                decoder=True,
                out_bias=self.out_bias,
                kernel=self.kernel,
                name=name,
            )

        by_hand = isinstance(self.kernel, FusedAttention)
        y = LayerNorm(self.dtype, self.norm_eps, by_hand, name="norm1")(x)
        q = y + embedding
        x = x + attention("self_attention")(q, q, y)
        y = LayerNorm(self.dtype, self.norm_eps, by_hand, name="norm2")(x)
        if self.memory_norm:
            memory = LayerNorm(self.dtype, self.norm_eps, by_hand, name="norm_memory")(memory)
        x = x + attention("cross_attention")(y + embedding, memory, memory)
        y = LayerNorm(self.dtype, self.norm_eps, by_hand, name="norm3")(x)
        return x + FeedForward(
            self.hidden, self.start, self.dtype, self.depth, name="feed_forward"
        )(y), None


# What the backward pass recomputes in each layer, from the most memory to the least: nothing;
# element-wise operations (LayerNorm, ReLU, scaling, casts); also attention; all but the layer's
# input.
_policies = jax.checkpoint_policies
REMATERIALISATION: dict[str, Any] = {
    "none": None,
    "elementwise": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names("attention")
    ),
    "dots": _policies.dots_with_no_batch_dims_saveable,
    "layer": _policies.nothing_saveable,
}
# The same with a fused kernel, by the names of what is kept: projections, attention's result, and
# the hidden layer before ReLU.
FUSED_REMATERIALISATION: dict[str, Any] = {
    "none": None,
    "elementwise": _policies.save_only_these_names("qkv", "attention", "hidden"),
    "dots": _policies.save_only_these_names("qkv", "hidden"),
    "layer": _policies.nothing_saveable,
}


class Body(nn.Module):
    """The shared transformer on tokens: linear embedding, positions, encoder, decoder and MLP.

    A stack may have no layers, which ablation studies use. A body without any layer only adds the
    positions.
    """

    patch: int
    heads: int
    hidden: int
    encoder_layers: int
    decoder_layers: int
    start: TorchStart
    dtype: Dtype
    remat: str = "none"
    out_bias: bool = False
    norm_eps: float = 1e-5
    gather: Any = None
    memory_norm: bool = False
    kernel: FusedAttention | str | None = None

    def _stack(self, layer: Any, length: int, name: str, **options: Any) -> Any:
        # Inside the rematerialised layer, so that the backward pass gathers again and keeps
        # nothing.
        if self.gather is not None:
            layer = nn.map_variables(layer, "params", self.gather)
        fused = isinstance(self.kernel, FusedAttention)
        policy = (FUSED_REMATERIALISATION if fused else REMATERIALISATION)[self.remat]
        if policy is not None:
            layer = nn.remat(layer, policy=policy, prevent_cse=False)
        scanned = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": not self.start.same_layers},
            in_axes=nn.broadcast,
            length=length,
        )
        depth = self.encoder_layers + self.decoder_layers
        return scanned(
            self.heads,
            self.hidden,
            self.start,
            self.dtype,
            depth,
            self.out_bias,
            self.norm_eps,
            self.kernel,
            name=name,
            **options,
        )

    @nn.compact
    def __call__(self, tokens: Array, embedding: Array) -> Array:
        """Returns `[S, T, B, N, D]` from tokens `[S, T, B, N, D]` and embeddings `[T, 1, N, D]`.

        S is the number of shards, T the number of tasks.
        """
        width, start = tokens.shape[-1], self.start
        position = self.param("position", start.position(), tokens.shape[-2:], jnp.float32).astype(
            self.dtype
        )
        if not self.encoder_layers + self.decoder_layers:
            return tokens + position
        linear = dense(
            width,
            start.linear_encoding(width),
            start.linear_encoding_bias(width),
            self.dtype,
            "linear",
        )
        embedding, shape = embedding.astype(self.dtype), tokens.shape
        if isinstance(self.kernel, FusedAttention):
            # All tokens of all images on one axis: on a TPU, reshapes to more axes are copies.
            def rows(x: Array) -> Array:
                return jnp.broadcast_to(x, shape).reshape(-1, width)

            tokens, position, embedding = rows(tokens), rows(position), rows(embedding)[None]
        x = linear(tokens) + tokens + position
        if self.encoder_layers:
            x, _ = self._stack(EncoderLayer, self.encoder_layers, "encoder")(x, None)
        if self.decoder_layers:
            decoder = self._stack(
                DecoderLayer, self.decoder_layers, "decoder", memory_norm=self.memory_norm
            )
            if isinstance(self.kernel, FusedAttention):
                # The axis of 1 makes the decoder's stacks differ from the encoder's; see `kept`.
                x = x[None]
            x, _ = decoder(x, x, embedding)
        depth = self.encoder_layers + self.decoder_layers
        x = x + FeedForward(4 * width, start, self.dtype, depth, name="mlp")(x)
        return x.reshape(shape)


class ResidualBlock(nn.Module):
    """Two 5x5 convolutions with ReLU between them, and the residual connection."""

    start: TorchStart
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        size, start = x.shape[-1], self.start
        fan_in = 25 * size
        y = conv(size, 5, start.kernel(fan_in), start.bias(fan_in), self.dtype, "conv1")(x)
        last = conv(
            size,
            5,
            start.head_residual(fan_in),
            start.head_residual_bias(fan_in),
            self.dtype,
            "conv2",
        )
        return x + last(nn.relu(y))


class Head(nn.Module):
    """A task's head: normalised image `[B, H, W, 3]` -> features `[B, H, W, C]`."""

    features: int
    start: TorchStart
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        start = self.start
        x = conv(self.features, 3, start.head_in(27), start.head_in_bias(27), self.dtype, "conv")(x)
        x = ResidualBlock(start, self.dtype, name="block1")(x)
        return ResidualBlock(start, self.dtype, name="block2")(x)


def upsampling_steps(scale: int) -> tuple[int, ...]:
    """Returns the scales of a tail's up-sampling layers.

    x4 is twice x2, as in the authors' code; any other scale is one step.
    """
    return (2, 2) if scale == 4 else (scale,) if scale > 1 else ()


class Tail(nn.Module):
    """A task's tail: features `[B, H, W, C]` -> normalised image `[B, H * scale, W * scale, 3]`.

    The image is float32.
    """

    scale: int
    start: TorchStart
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        size, start = x.shape[-1], self.start
        fan_in = 9 * size
        for i, step in enumerate(upsampling_steps(self.scale)):
            up = conv(
                size * step**2,
                3,
                start.upsample(fan_in, step),
                start.upsample_bias(fan_in, step),
                self.dtype,
                f"up{i}",
            )
            x = pixel_shuffle(up(x), step)
        out = conv(3, 3, start.tail_out(fan_in), start.tail_out_bias(fan_in), self.dtype, "conv")
        return out(x).astype(jnp.float32)
