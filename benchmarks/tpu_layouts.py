"""Layouts that could serve the matrix units better, by the TPU compiler's own estimate of cycles:
forward and backward.

    pip install libtpu
    python benchmarks/tpu_layouts.py v5e:1x1 v5p:2x2x1

Each variant computes the same numbers from the same parameters (checked here on the CPU first).

- A 5x5 convolution of 64 channels fills half of a matrix unit's 128 rows and half of its columns.
  Folded, two neighbouring columns of the picture are one of 128 channels, and the kernel becomes
  5x3 over these: 1.2 times the products.
- Query, key and value as one product with `[D, 3 D]`, or as three with `[D, D]`.
"""

from __future__ import annotations

import json
import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from ipt_jax.distributed import devices
from ipt_jax.distributed import sharding as partition
from ipt_jax.tpu import chips, hlo

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# A chip
SAMPLES = 24


def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """5x5, `[B, H, W, C]`, zeros around."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=DIMENSIONS)


def folded(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same on `[B, H, W / 2, 2 C]`: tap d of block offset -1, 0, 1 joins column i of one pair
    with j of another.
    """
    *lead, width, c = x.shape
    rows = []
    for offset in (-1, 0, 1):
        taps = [[2 * offset + i - j + 2 for j in (0, 1)] for i in (0, 1)]
        zero = jnp.zeros_like(kernel[:, 0])
        blocks = [[kernel[:, t] if 0 <= t < 5 else zero for t in line] for line in taps]
        rows.append(jnp.concatenate([jnp.concatenate(line, -1) for line in blocks], -2))
    # [5, 3, 2 C, 2 C]
    wide = jnp.stack(rows, 1)
    out = jax.lax.conv_general_dilated(
        x.reshape(*lead, width // 2, 2 * c), wide, (1, 1), "SAME", dimension_numbers=DIMENSIONS
    )
    return out.reshape(*lead, width, c)


def block(conv):
    """A head's residual block."""
    return lambda x, k: x + conv(jax.nn.relu(conv(x, k[0])), k[1])


def fused(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return sum(jnp.square(part) for part in jnp.split(x @ kernel, 3, -1))


def separate(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return sum(jnp.square(x @ part) for part in jnp.split(kernel, 3, -1))


def scored(function):
    """Value and both gradients, of something that depends on every output."""
    return jax.value_and_grad(
        lambda k, x: jnp.sum(jnp.square(function(x, k).astype(jnp.float32))), argnums=(0, 1)
    )


VARIANTS = {
    "residual block, plain": (block(plain), (48, 48, 64), (2, 5, 5, 64, 64)),
    "residual block, folded": (block(folded), (48, 48, 64), (2, 5, 5, 64, 64)),
    "q, k, v in one product": (fused, (256, 576), (576, 1728)),
    "q, k, v in three": (separate, (256, 576), (576, 1728)),
}


def check() -> None:
    """Variants of one thing agree."""
    rng = np.random.default_rng(0)
    functions = list(VARIANTS.values())
    for (one, x_shape, k_shape), (other, *_) in (functions[:2], functions[2:]):
        x = jnp.asarray(rng.normal(size=(2, *x_shape)), jnp.float32)
        kernel = jnp.asarray(rng.normal(size=k_shape) / 40, jnp.float32)
        for a, b in zip(
            jax.tree.leaves(scored(one)(kernel, x)), jax.tree.leaves(scored(other)(kernel, x))
        ):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * float(jnp.abs(b).max()))


def main() -> None:
    check()
    for name in sys.argv[1:] or ["v5e:1x1"]:
        where = chips.find_topology(name)
        mesh = devices.topology_mesh(name)
        for what, (function, x_shape, k_shape) in VARIANTS.items():
            x = jax.ShapeDtypeStruct((SAMPLES * mesh.size, *x_shape), jnp.bfloat16)
            kernel = jax.ShapeDtypeStruct(k_shape, jnp.bfloat16)
            places = (partition.replicated(mesh), partition.split(mesh))
            compiled = jax.jit(scored(function), in_shardings=places).lower(kernel, x).compile()
            cycles = hlo.read_program(compiled.as_text()).cycles
            found = {
                "topology": name,
                "what": what,
                "cycles": cycles,
                "us": 1e6 * cycles / (where.chip.clock or np.nan),
            }
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
