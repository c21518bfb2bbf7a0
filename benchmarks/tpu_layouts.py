"""Compares layouts of products on TPUs, forward and backward, by the compiler's estimate of cycles.

    pip install -e '.[compile]'
    python benchmarks/tpu_layouts.py v5e:1x1 v5p:2x2x1

The variants compute the same numbers from the same parameters, which is first checked on the CPU.

- A 5x5 convolution of 64 channels fills half of the 128 rows and half of the columns of a matrix
  unit. If it is folded, two neighbouring columns of the image become one of 128 channels, and the
  kernel becomes 5x3, with 1.2 times the products.
- Query, key and value are one product with `[D, 3 D]`, or three products with `[D, D]`.
"""

from __future__ import annotations

import json
import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from ipt_jax.distributed import devices, sharding
from ipt_jax.tpu import chips, hlo

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# The number of samples on a chip.
SAMPLES = 24


def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns a 5x5 convolution of `[B, H, W, C]` with zero padding."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=DIMENSIONS)


def folded(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the same convolution, computed on `[B, H, W / 2, 2 C]`.

    Its kernel has the weight between column i of a pair and column j of the pair at an offset of
    -1, 0 or 1.
    """
    *lead, width, c = x.shape
    rows = []
    for offset in (-1, 0, 1):
        taps = [[2 * offset + i - j + 2 for j in (0, 1)] for i in (0, 1)]
        zero = jnp.zeros_like(kernel[:, 0])
        blocks = [[kernel[:, t] if 0 <= t < 5 else zero for t in line] for line in taps]
        rows.append(jnp.concatenate([jnp.concatenate(line, -1) for line in blocks], -2))
    # The folded kernel is [5, 3, 2 C, 2 C].
    wide = jnp.stack(rows, 1)
    out = jax.lax.conv_general_dilated(
        x.reshape(*lead, width // 2, 2 * c), wide, (1, 1), "SAME", dimension_numbers=DIMENSIONS
    )
    return out.reshape(*lead, width, c)


def block(conv):
    """Returns the residual block of a head as a function of (x, kernels)."""
    return lambda x, k: x + conv(jax.nn.relu(conv(x, k[0])), k[1])


def fused(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns a function of the three parts of one product."""
    return sum(jnp.square(part) for part in jnp.split(x @ kernel, 3, -1))


def separate(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns the same function of three products."""
    return sum(jnp.square(x @ part) for part in jnp.split(kernel, 3, -1))


def scored(function):
    """Returns a function of a scalar that depends on all outputs, and of its two gradients."""
    return jax.value_and_grad(
        lambda k, x: jnp.sum(jnp.square(function(x, k).astype(jnp.float32))), argnums=(0, 1)
    )


VARIANTS = {
    "residual block, plain": (block(plain), (48, 48, 64), (2, 5, 5, 64, 64)),
    "residual block, folded": (block(folded), (48, 48, 64), (2, 5, 5, 64, 64)),
    "q, k, v in one product": (fused, (256, 576), (576, 1728)),
    "q, k, v in three": (separate, (256, 576), (576, 1728)),
}


def check_variants() -> None:
    """Checks that the variants compute the same."""
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
    """Runs the benchmark."""
    check_variants()
    for name in sys.argv[1:] or ["v5e:1x1"]:
        topology = chips.find_topology(name)
        mesh = devices.topology_mesh(name)
        for what, (function, x_shape, k_shape) in VARIANTS.items():
            x = jax.ShapeDtypeStruct((SAMPLES * mesh.size, *x_shape), jnp.bfloat16)
            kernel = jax.ShapeDtypeStruct(k_shape, jnp.bfloat16)
            in_shardings = (sharding.replicated(mesh), sharding.split(mesh))
            compiled = (
                jax.jit(scored(function), in_shardings=in_shardings).lower(kernel, x).compile()
            )
            cycles = hlo.read_program(compiled.as_text()).cycles
            found = {
                "topology": name,
                "what": what,
                "cycles": cycles,
                "us": 1e6 * cycles / (topology.chip.clock or np.nan),
            }
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
