"""Layers of the network (section 3.1 of the paper): head, body with encoder and decoder, tail.

Shapes: B images, C features, N tokens of width D = C * patch^2. Parameters, LayerNorm and softmax
are float32; everything else is computed in `dtype`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from ipt_jax.model import fused_attention as kernels
from ipt_jax.model.fused_attention import FusedAttention, row_norm
from ipt_jax.model.init import TorchStart

Array = jax.Array
Dtype = Any


def precision(dtype: Dtype) -> str | None:
    """Returns the precision of matrix products.

    float32 products are exact on TPUs and GPUs too, where the default is a lower precision.
    """
    return "highest" if jnp.dtype(dtype) == jnp.float32 else None


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


def by_rows(layer: Callable[[Array], Array], x: Array) -> Array:
    """Applies a layer of the last axis to `x`, with all other axes reshaped into one.

    On a CPU, XLA computes the gradients of products of more than two axes by transposing the
    arrays, which costs as much as the product.
    """
    y = layer(x.reshape(-1, x.shape[-1]))
    return y.reshape(*x.shape[:-1], y.shape[-1])


def dense(
    out: int, kernel_init: Any, bias_init: Any, dtype: Dtype, name: str, use_bias: bool = True
) -> Callable[[Array], Array]:
    """Returns a linear layer of the last axis."""
    layer = nn.Dense(
        out,
        use_bias=use_bias,
        dtype=dtype,
        precision=precision(dtype),
        kernel_init=kernel_init,
        bias_init=bias_init,
        name=name,
    )
    return functools.partial(by_rows, layer)


class RowNorm(nn.Module):
    """LayerNorm over the last axis with a backward pass of its own; parameters of nn.LayerNorm."""

    eps: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32)
        return by_rows(lambda rows: row_norm(rows, scale, bias, self.eps), x)


class LayerNorm(nn.Module):
    """LayerNorm over the last axis, computed in float32 and returned in `dtype`.

    With `by_hand`, the backward pass is that of `RowNorm`, for TPUs.
    """

    dtype: Dtype
    eps: float = 1e-5
    by_hand: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.by_hand:
            return RowNorm(self.eps, name="norm")(x)
        norm = nn.LayerNorm(
            epsilon=self.eps, dtype=jnp.float32, use_fast_variance=False, name="norm"
        )
        # Without the barrier, XLA on a CPU recomputes the norm inside each product that reads it,
        # and its gradients too.
        return jax.lax.optimization_barrier(by_rows(norm, x).astype(self.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def attention_weights(logits: Array, dtype: Dtype) -> Array:
    """Returns the softmax over the last axis, computed in float32 and returned in `dtype`.

    Only the result is kept for the backward pass. Automatic differentiation would also keep a
    float32 array, which with bfloat16 triples the memory that attention keeps.
    """
    return jax.nn.softmax(logits.astype(jnp.float32), axis=-1).astype(dtype)


def _weights_forward(logits: Array, dtype: Dtype) -> tuple[Array, Array]:
    weights = checkpoint_name(attention_weights(logits, dtype), "attention")
    return weights, weights


def _weights_backward(dtype: Dtype, weights: Array, gradient: Array) -> tuple[Array]:
    w, g = weights.astype(jnp.float32), gradient.astype(jnp.float32)
    return (w * (g - jnp.sum(w * g, axis=-1, keepdims=True)),)


attention_weights.defvjp(_weights_forward, _weights_backward)


class RowsOut(nn.Module):
    """A linear layer of features on rows: `[D, R]` -> `[R, D]`; parameters of nn.Dense."""

    kernel_init: Any
    use_bias: bool
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[0]
        kernel = self.param("kernel", self.kernel_init, (width, width), jnp.float32)
        y = jax.lax.dot_general(
            x,
            kernel.astype(self.dtype),
            (((0,), (0,)), ((), ())),
            precision=precision(self.dtype),
        )
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (width,), jnp.float32).astype(self.dtype)
        return y


def kept(x: Array, name: str, lead: tuple[int, ...]) -> Array:
    """Names an array that the backward pass may keep, with axes of 1 in front of its shape.

    The stacks of what a scan keeps start as zeros. XLA merges zeros of one shape, those of the
    encoder and of the decoder, and then really writes them; with different shapes it leaves them
    uninitialised.
    """
    return checkpoint_name(x.reshape(*lead, *x.shape), name).reshape(x.shape)


class Attention(nn.Module):
    """Multi-head attention without biases of the projections.

    The projections of query, key and value are one matrix `[D, 3 D]`. Inputs that are the same
    array share a product. `out_bias` adds a bias to the output projection, which some published
    files have because PyTorch 1.5 to 1.8 always created it.
    """

    heads: int
    start: TorchStart
    dtype: Dtype
    depth: int
    decoder: bool = False
    out_bias: bool = False
    kernel: FusedAttention | str | None = None

    @nn.compact
    def __call__(self, query: Array, key: Array, value: Array) -> Array:
        """Returns `[..., N, D]` from query, key and value, `[..., N, D]` each.

        With a fused kernel all tokens of all images are on one axis, `[..., B N, D]`.
        """
        width = query.shape[-1]
        kernel = self.param(
            "qkv", self.start.attention_in(width, self.decoder), (width, 3 * width), jnp.float32
        )
        kernel = kernel.astype(self.dtype)
        if isinstance(self.kernel, FusedAttention):
            return self._fused(self.kernel, kernel, query, key, value)

        def dot(x: Array, matrix: Array) -> Array:
            return by_rows(
                lambda rows: jnp.matmul(rows, matrix, precision=precision(self.dtype)), x
            )

        if query is key and key is value:
            q, k, v = jnp.split(dot(query, kernel), 3, axis=-1)
        elif query is key:
            q, k = jnp.split(dot(query, kernel[:, : 2 * width]), 2, axis=-1)
            v = dot(value, kernel[:, 2 * width :])
        else:
            q = dot(query, kernel[:, :width])
            k, v = (
                jnp.split(dot(key, kernel[:, width:]), 2, axis=-1)
                if key is value
                else (dot(key, kernel[:, width : 2 * width]), dot(value, kernel[:, 2 * width :]))
            )
        lead, tokens, size = query.shape[:-2], query.shape[-2], width // self.heads

        def split(x: Array) -> Array:
            # [B, heads, N, size], with each head's matrix contiguous: 12 % faster on a CPU.
            return x.reshape(-1, tokens, self.heads, size).transpose(0, 2, 1, 3)

        start = self.start.residual(width, self.depth)
        out = dense(width, start, nn.initializers.zeros, self.dtype, "out", self.out_bias)
        if self.kernel == "cudnn":
            by_tokens = [x.reshape(-1, tokens, self.heads, size) for x in (q, k, v)]
            mixed = jax.nn.dot_product_attention(*by_tokens, implementation="cudnn")
            return out(checkpoint_name(mixed.reshape(*lead, tokens, width), "attention"))
        q, k, v = split(q * size**-0.5), split(k), split(v)
        logits = jnp.einsum(
            "bhqd,bhkd->bhqk",
            q,
            k,
            precision=precision(self.dtype),
            preferred_element_type=jnp.float32,
        )
        weights = attention_weights(logits, self.dtype)
        mixed = jnp.einsum("bhqk,bhkd->bhqd", weights, v, precision=precision(self.dtype))
        mixed = checkpoint_name(mixed, "attention")
        return out(mixed.transpose(0, 2, 1, 3).reshape(*lead, tokens, width))

    def _fused(
        self, fused: FusedAttention, kernel: Array, query: Array, key: Array, value: Array
    ) -> Array:
        """Returns the same with projections `[.., R]`, features on rows, for the fused kernel."""
        width, lead = query.shape[-1], query.shape[:-2]

        def project(x: Array, matrix: Array) -> Array:
            rows = x.reshape(-1, width)
            found = jax.lax.dot_general(
                matrix, rows, (((0,), (1,)), ((), ())), precision=precision(self.dtype)
            )
            return kept(found, "qkv", lead)

        arrays: tuple[Array, ...]
        first, second = kernel[:, :width], kernel[:, width:]
        if query is key and key is value:
            arrays, parts = (project(query, kernel),), kernels.SELF
        elif query is key:
            both, last = kernel[:, : 2 * width], kernel[:, 2 * width :]
            arrays, parts = (project(query, both), project(value, last)), kernels.SHARED_KEY
        elif key is value:
            arrays, parts = (project(query, first), project(key, second)), kernels.SHARED_VALUE
        else:
            matrices = jnp.split(kernel, 3, axis=1)
            arrays = tuple(map(project, (query, key, value), matrices))
            parts = kernels.SEPARATE
        mixed = kept(fused(arrays, parts, self.heads), "attention", lead)
        start = self.start.residual(width, self.depth)
        out = RowsOut(start, self.out_bias, self.dtype, name="out")(mixed)
        return out.reshape(query.shape)


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
        # The axes in front of [B N, D] with a fused kernel; it has no effect elsewhere.
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
