"""Floating-point operations by formula.

The compiler's own count is no substitute: it counts a scanned stack of layers as one layer.
"""

from __future__ import annotations

from ipt_jax.model.ipt import IPT
from ipt_jax.model.layers import upsampling_steps


def multiply_adds(model: IPT, task: str) -> int:
    """Returns the multiply-adds of one tile through a task's head, the body and the task's tail.

    Only matrix products and convolutions are counted.
    """
    scale = dict(model.scales)[task]
    n, d, h, c = model.tokens, model.width, model.hidden, model.features
    pixels = model.tile**2
    head = pixels * (27 * c + 4 * 25 * c * c)
    encoder = n * (4 * d * d + 2 * d * h) + 2 * n * n * d
    decoder = n * (8 * d * d + 2 * d * h) + 4 * n * n * d
    body = model.encoder_layers * encoder + model.decoder_layers * decoder
    # The linear embedding and the MLP at the end.
    body += n * 9 * d * d if body else 0
    tail, area = 0, pixels
    for step in upsampling_steps(scale):
        tail += area * 9 * c * c * step**2
        area *= step**2
    return head + body + tail + area * 27 * c


def forward(model: IPT, tasks: tuple[str, ...], tiles: int) -> float:
    """Returns the FLOP of a forward pass of `tiles` tiles, divided equally among the tasks.

    A multiply-add counts as two.
    """
    return 2.0 * tiles * sum(multiply_adds(model, task) for task in tasks) / len(tasks)


def step(model: IPT, tasks: tuple[str, ...], samples: int) -> float:
    """Returns the FLOP of a training step.

    The backward pass costs as much as two forward passes. Recomputation is not counted.
    """
    return 3.0 * forward(model, tasks, samples)
