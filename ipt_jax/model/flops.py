"""Floating-point operations by formula. The compiler's own count takes a scanned stack of layers
for one layer.
"""

from __future__ import annotations

from ipt_jax.model.ipt import IPT
from ipt_jax.model.layers import upsampling_steps


def multiply_adds(model: IPT, task: str) -> int:
    """Multiply-adds of one tile through one task's head, the body and its tail: products and
    convolutions only.
    """
    scale = dict(model.scales)[task]
    n, d, h, c = model.tokens, model.width, model.hidden, model.features
    pixels = model.tile**2
    head = pixels * (27 * c + 4 * 25 * c * c)
    encoder = n * (4 * d * d + 2 * d * h) + 2 * n * n * d
    decoder = n * (8 * d * d + 2 * d * h) + 4 * n * n * d
    body = model.encoder_layers * encoder + model.decoder_layers * decoder
    # Its first and last products
    body += n * 9 * d * d if body else 0
    tail, area = 0, pixels
    for step in upsampling_steps(scale):
        tail += area * 9 * c * c * step**2
        area *= step**2
    return head + body + tail + area * 27 * c


def forward(model: IPT, tasks: tuple[str, ...], tiles: int) -> float:
    """FLOP of a forward pass of `tiles` tiles, the same number of each task; a multiply-add is
    two.
    """
    return 2.0 * tiles * sum(multiply_adds(model, task) for task in tasks) / len(tasks)


def step(model: IPT, tasks: tuple[str, ...], samples: int) -> float:
    """FLOP of a training step: the backward pass costs two forward ones. Rematerialised work is not
    counted.
    """
    return 3.0 * forward(model, tasks, samples)
