"""IPT in PyTorch, for tests only: what an exported file must load into and compute. Needs torch."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

MEAN = torch.tensor([0.4488, 0.4371, 0.4040]) * 255


def conv(inputs: int, outputs: int, side: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, padding=side // 2)


class MeanShift(nn.Conv2d):
    def __init__(self, sign: int):
        super().__init__(3, 3, 1)
        self.weight.data = torch.eye(3).reshape(3, 3, 1, 1)
        self.bias.data = sign * MEAN


class Residual(nn.Module):
    def __init__(self, features: int):
        super().__init__()
        self.body = nn.Sequential(
            conv(features, features, 5), nn.ReLU(), conv(features, features, 5)
        )

    def forward(self, x):
        return x + self.body(x)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width))
        self.out_proj = nn.Linear(width, width, bias=False)

    def forward(self, q, k, v):
        parts = self.in_proj_weight.chunk(3)
        q, k, v = (
            F.linear(x, w).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, w in zip((q, k, v), parts)
        )
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        return self.out_proj((weights @ v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, decoder: bool):
        super().__init__()
        self.self_attn = Attention(width, heads)
        if decoder:
            self.multihead_attn = Attention(width, heads)
            self.norm3 = nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def feed_forward(self, x):
        return self.linear2(self.linear1(x).relu())

    def forward(self, x, memory=None, query=None):
        y = self.norm1(x)
        if memory is None:
            x = x + self.self_attn(y, y, y)
            return x + self.feed_forward(self.norm2(x))
        x = x + self.self_attn(y + query, y + query, y)
        x = x + self.multihead_attn(self.norm2(x) + query, memory, memory)
        return x + self.feed_forward(self.norm3(x))


class Stack(nn.Module):
    def __init__(self, layers: int, *size, decoder: bool):
        super().__init__()
        self.layers = nn.ModuleList(Layer(*size, decoder) for _ in range(layers))

    def forward(self, x, *others):
        for layer in self.layers:
            x = layer(x, *others)
        return x


class Positions(nn.Module):
    def __init__(self, tokens: int, width: int):
        super().__init__()
        self.pe = nn.Embedding(tokens, width)
        self.register_buffer("position_ids", torch.arange(tokens)[None])


class Body(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.patch, self.tile, width, hidden = model.patch, model.tile, model.width, model.hidden
        self.linear_encoding = nn.Linear(width, width)
        self.mlp_head = nn.Sequential(
            nn.Linear(width, 4 * width), nn.Identity(), nn.ReLU(), nn.Linear(4 * width, width)
        )
        self.query_embed = nn.Embedding(len(model.scales), model.tokens * width)
        self.encoder = Stack(model.encoder_layers, width, model.heads, hidden, decoder=False)
        self.decoder = Stack(model.decoder_layers, width, model.heads, hidden, decoder=True)
        self.position_encoding = Positions(model.tokens, width)

    def forward(self, x, task: int):
        tokens = F.unfold(x, self.patch, stride=self.patch).transpose(1, 2)
        tokens = self.linear_encoding(tokens) + tokens
        memory = self.encoder(
            tokens + self.position_encoding.pe(self.position_encoding.position_ids)
        )
        query = self.query_embed.weight[task].reshape(1, *tokens.shape[1:])
        tokens = self.decoder(memory, memory, query)
        tokens = self.mlp_head(tokens) + tokens
        return F.fold(tokens.transpose(1, 2), (self.tile, self.tile), self.patch, stride=self.patch)


def tail(features: int, scale: int) -> nn.Sequential:
    steps = {1: [], 2: [2], 3: [3], 4: [2, 2]}[scale]
    up = [part for s in steps for part in (conv(features, features * s * s, 3), nn.PixelShuffle(s))]
    return nn.Sequential(nn.Sequential(*up), conv(features, 3, 3))


class TorchIPT(nn.Module):
    """For a geometry such as `ipt_jax.model.IPT` holds: the same fields are read."""

    def __init__(self, model):
        super().__init__()
        n = model.features
        self.sub_mean, self.add_mean = MeanShift(-1), MeanShift(1)
        self.head = nn.ModuleList(
            nn.Sequential(conv(3, n, 3), Residual(n), Residual(n)) for _ in model.scales
        )
        self.body = Body(model)
        self.tail = nn.ModuleList(tail(n, scale) for _, scale in model.scales)

    @torch.no_grad()
    def forward(self, x, task: int):
        """float `[B, 3, tile, tile]` -> `[B, 3, tile * scale, tile * scale]`, 0..255."""
        x = self.head[task](self.sub_mean(x))
        return self.add_mean(self.tail[task](x + self.body(x, task)))
