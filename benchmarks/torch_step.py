"""Compares the training step and the forward pass with the same computation in PyTorch.

    pip install torch    # or a build for your GPU
    python benchmarks/torch_step.py
    python benchmarks/torch_step.py --device cuda

On a CPU, the model has the paper's size, in float32; a step has one task and 4 samples, a forward
pass 8 tiles. On a GPU, it computes in bfloat16 with six tasks and 264 samples, and PyTorch uses
torch.compile and autocast.

Each round times one call of both sides, so that other load on the machine affects both. Ratios are
medians over rounds of our time / PyTorch's. The PyTorch side is written from the description of the
model, with PyTorch's scaled dot-product attention and Adam (fused on a GPU). No data is loaded.
Prints one JSON object last.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any

# jax must not take all of the GPU's memory, because PyTorch needs some.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import numpy as np
import torch
from ml_collections import ConfigDict
from torch import nn
from torch.nn import functional as F

from ipt_jax.bench.step import product_rate, random_batch
from ipt_jax.config.loading import complete
from ipt_jax.config.resolve import resolve
from ipt_jax.distributed import devices, sharding
from ipt_jax.model import IPT, build, flops, preset
from ipt_jax.step.state import init_state
from ipt_jax.step.train_step import compile_step
from ipt_jax.tasks import PAPER_TASKS, make_tasks

MEAN = (0.4488 * 255, 0.4371 * 255, 0.4040 * 255)


class Attention(nn.Module):
    """Multi-head attention without biases; query, key and value projections in one matrix."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Parameter(torch.empty(3 * width, width))
        nn.init.xavier_uniform_(self.qkv)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        width = query.shape[-1]
        if query is key and key is value:
            parts = F.linear(query, self.qkv).chunk(3, -1)
        elif query is key:
            parts = (
                *F.linear(query, self.qkv[: 2 * width]).chunk(2, -1),
                F.linear(value, self.qkv[2 * width :]),
            )
        else:
            parts = (
                F.linear(query, self.qkv[:width]),
                *F.linear(key, self.qkv[width:]).chunk(2, -1),
            )
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in parts)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """An encoder layer, or a decoder layer with cross-attention and the task's embedding."""

    def __init__(self, width: int, heads: int, hidden: int, decoder: bool):
        super().__init__()
        self.own, self.cross = Attention(width, heads), Attention(width, heads) if decoder else None
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 if decoder else 2))
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(
        self,
        x: torch.Tensor,
        memory: torch.Tensor | None = None,
        embedding: torch.Tensor | None = None,
    ) -> torch.Tensor:
        y = self.norms[0](x)
        if self.cross is None:
            x = x + self.own(y, y, y)
        else:
            query = y + embedding
            x = x + self.own(query, query, y)
            x = x + self.cross(self.norms[1](x) + embedding, memory, memory)
        return x + self.feed(self.norms[-1](x))


class Residual(nn.Module):
    """Two 5x5 convolutions with a residual connection."""

    def __init__(self, features: int):
        super().__init__()
        side = dict(kernel_size=5, padding=2)
        self.body = nn.Sequential(
            nn.Conv2d(features, features, **side), nn.ReLU(), nn.Conv2d(features, features, **side)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class Network(nn.Module):
    """IPT with the tasks and the geometry of one of our models."""

    def __init__(self, like: IPT):
        super().__init__()
        n, width = like.features, like.width
        self.patch, self.tile, self.scale = like.patch, like.tile, like.input_scale
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1))
        self.heads, self.tails = nn.ModuleDict(), nn.ModuleDict()
        self.embeddings = nn.ParameterDict()
        for name, scale in like.scales:
            self.heads[name] = nn.Sequential(
                nn.Conv2d(3, n, 3, padding=1), Residual(n), Residual(n)
            )
            steps = (2, 2) if scale == 4 else (scale,) if scale > 1 else ()
            up = [
                part
                for s in steps
                for part in (nn.Conv2d(n, n * s * s, 3, padding=1), nn.PixelShuffle(s))
            ]
            self.tails[name] = nn.Sequential(*up, nn.Conv2d(n, 3, 3, padding=1))
            self.embeddings[name] = nn.Parameter(torch.randn(like.tokens, width))
        self.position = nn.Parameter(torch.randn(like.tokens, width))
        self.linear = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width)
        )
        size = (width, like.heads, like.hidden)
        self.encoder = nn.ModuleList(
            Layer(*size, decoder=False) for _ in range(like.encoder_layers)
        )
        self.decoder = nn.ModuleList(Layer(*size, decoder=True) for _ in range(like.decoder_layers))

    def forward(
        self, lq: dict[str, torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Returns images and tokens, as our model does, but in the layout `[B, 3, H, W]`."""
        rows = len(next(iter(lq.values())))
        features = torch.cat(
            [self.heads[name]((x.float() - self.mean) / self.scale) for name, x in lq.items()]
        )
        tokens = F.unfold(features, self.patch, stride=self.patch).transpose(1, 2)
        tokens = self.linear(tokens) + tokens + self.position
        for layer in self.encoder:
            tokens = layer(tokens)
        memory, embedding = (
            tokens,
            torch.cat([self.embeddings[name].expand(rows, -1, -1) for name in lq]),
        )
        for layer in self.decoder:
            tokens = layer(tokens, memory, embedding)
        tokens = self.mlp(tokens) + tokens
        side = (self.tile, self.tile)
        features = features + F.fold(tokens.transpose(1, 2), side, self.patch, stride=self.patch)
        parts = zip(lq, features.split(rows), tokens.split(rows))
        outputs = {
            name: (self.tails[name](x).float() * self.scale + self.mean, t) for name, x, t in parts
        }
        return {name: out for name, (out, _) in outputs.items()}, {
            name: t for name, (_, t) in outputs.items()
        }


def loss_of(
    network: nn.Module, batch: dict[str, dict[str, torch.Tensor]], group: int, weight: float
) -> torch.Tensor:
    """Returns our loss: L1, and equation 5 for groups of two."""
    outputs, tokens = network({name: pair["lq"] for name, pair in batch.items()})
    l1 = torch.stack(
        [F.l1_loss(outputs[name], pair["hq"].float()) for name, pair in batch.items()]
    ).mean()
    terms = []
    for one in tokens.values():
        # [G, 2, D]
        unit = F.normalize(one.float(), dim=-1).mean(1).unflatten(0, (-1, group))
        terms.append(((unit[:, 0] * unit[:, 1]).sum(-1) - 0.5 * (unit**2).sum((1, 2))).mean())
    return l1 + weight * torch.stack(terms).mean()


def take_turns(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Returns medians of the seconds of each side and of their ratio in each round.

    A first round does not count. `processor_ratio` is the ratio of the CPU seconds of all threads,
    which varies less on a busy machine.
    """
    clocks = {"": time.perf_counter, "processor_": time.process_time}
    seconds: dict[str, list[float]] = {f"{clock}{name}": [] for clock in clocks for name in sides}
    for number in range(rounds + 1):
        for name, call in sides.items():
            began = {clock: now() for clock, now in clocks.items()}
            call()
            for clock, now in clocks.items():
                if number:
                    seconds[f"{clock}{name}"].append(now() - began[clock])
            if number:
                print(f"  round {number}: {name} {seconds[name][-1]:.3f} s", flush=True)
    ratios = {
        f"{clock}ratio": [a / b for a, b in zip(seconds[f"{clock}ours"], seconds[f"{clock}torch"])]
        for clock in clocks
    }
    found: dict[str, Any] = {
        f"{name}_s": float(np.median(values)) for name, values in seconds.items()
    }
    found |= {name: float(np.median(values)) for name, values in ratios.items()}
    return {**found, "ratios": [round(r, 3) for r in ratios["ratio"]]}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--what", choices=("both", "step", "forward"), default="both")
    parser.add_argument("--model", default="ipt", help="a preset (default: ipt, the paper's size)")
    parser.add_argument(
        "--tasks", type=int, default=0, help="tasks a step (default: 1 on a CPU, 6 on a GPU)"
    )
    parser.add_argument(
        "--batch", type=int, default=0, help="samples a step (default: 4 on a CPU, 264 on a GPU)"
    )
    parser.add_argument(
        "--forward-batch",
        type=int,
        default=0,
        help="tiles of a forward pass (default: 8, or --batch)",
    )
    parser.add_argument("--remat", default="none", help="model.remat of ours")
    parser.add_argument(
        "--rounds", type=int, default=0, help="timed rounds (default: 5 on a CPU, 20 on a GPU)"
    )
    options = parser.parse_args()
    gpu = options.device == "cuda"
    if jax.default_backend() != ("gpu" if gpu else "cpu"):
        raise SystemExit(
            f"jax runs on {jax.default_backend()}; install jax[cuda13], or set JAX_PLATFORMS=cpu"
        )
    count, batch_size = options.tasks or (6 if gpu else 1), options.batch or (264 if gpu else 4)
    rounds, dtype = options.rounds or (20 if gpu else 5), "bfloat16" if gpu else "float32"
    settings = complete(
        {
            "model": preset(options.model) | {"dtype": dtype, "remat": options.remat},
            "tasks": PAPER_TASKS[:count],
            "batch_size": batch_size,
            "devices": 1,
            "data": {"source": "embedded"},
        }
    )
    config = resolve(ConfigDict(settings))
    found: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "torch": torch.__version__,
        "jax": jax.__version__,
    }
    found |= {
        "dtype": dtype,
        "model": options.model,
        "tasks": count,
        "remat": options.remat,
        "rounds": rounds,
    }
    ceiling = product_rate(dtype, 1)
    found["product_tflop_per_s"] = ceiling / 1e12
    model = build(config["model"], make_tasks(config["tasks"]))
    torch.manual_seed(0)
    network: nn.Module = Network(model).to(options.device)
    assert sum(p.numel() for p in network.parameters()) == sum(
        x.size for x in jax.tree.leaves(jax.eval_shape(lambda: model.init_params(0)))
    )
    if gpu:
        torch.set_float32_matmul_precision("high")
        network = torch.compile(network)
    if options.what != "step":
        tiles = options.forward_batch or (batch_size if gpu else 8)
        found["forward"] = {"batch": tiles, **compare_forward(model, network, tiles, gpu, rounds)}
        share(found["forward"], flops.forward(model, model.names, tiles), ceiling)
    if options.what != "forward":
        found["step"] = {"batch": batch_size, **compare_step(model, network, config, gpu, rounds)}
        share(found["step"], flops.step(model, model.names, batch_size), ceiling)
    print(json.dumps(found))


def share(found: dict[str, Any], work: float, ceiling: float) -> None:
    """Adds each side's share of the measured rate of matrix products."""
    for name in ("ours", "torch"):
        found[f"{name}_share_of_product"] = work / found[f"{name}_s"] / ceiling


def torch_batch(
    pairs: dict[str, dict[str, np.ndarray]], device: str
) -> dict[str, dict[str, torch.Tensor]]:
    """Returns the same batch for PyTorch, `[B, 3, H, W]`."""

    def to_torch(x: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).to(device)

    return {name: {key: to_torch(x) for key, x in pair.items()} for name, pair in pairs.items()}


def compare_forward(
    model: IPT, network: nn.Module, tiles: int, gpu: bool, rounds: int
) -> dict[str, Any]:
    """Compares the network without gradients."""
    pairs = random_batch(model, make_tasks(model.names), tiles // len(model.names))
    lq = {name: jax.numpy.asarray(pair["lq"]) for name, pair in pairs.items()}
    params = model.init_params(0)
    forward = jax.jit(lambda p, x: model.apply({"params": p}, x)[0])
    theirs = {
        name: pair["lq"] for name, pair in torch_batch(pairs, "cuda" if gpu else "cpu").items()
    }

    def torch_call() -> None:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=gpu):
            network(theirs)
        if gpu:
            torch.cuda.synchronize()

    return take_turns(
        {"torch": torch_call, "ours": lambda: jax.block_until_ready(forward(params, lq))}, rounds
    )


def compare_step(
    model: IPT, network: nn.Module, config: dict[str, Any], gpu: bool, rounds: int
) -> dict[str, Any]:
    """Compares loss, gradients and Adam together."""
    pairs = random_batch(model, make_tasks(model.names), config["batch_size"] // len(model.names))
    mesh = devices.make_mesh(1)
    batch = sharding.put_batch(pairs, mesh)
    state = jax.jit(lambda p: init_state(p, config), out_shardings=sharding.replicated(mesh))(
        model.init_params(0)
    )
    step = compile_step(model, config, mesh)
    theirs = torch_batch(pairs, "cuda" if gpu else "cpu")
    adam = torch.optim.Adam(network.parameters(), lr=5e-5, fused=gpu or None)

    def torch_call() -> None:
        adam.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=gpu):
            loss = loss_of(network, theirs, config["loss"]["group"], config["loss"]["weight"])
        loss.backward()
        adam.step()
        if gpu:
            torch.cuda.synchronize()

    def our_call() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))

    return take_turns({"torch": torch_call, "ours": our_call}, rounds)


if __name__ == "__main__":
    main()
