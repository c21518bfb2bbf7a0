"""64-bit fingerprints of arrays, computed where the arrays live.

Each element is read as 32-bit words (its bits, not its value), and two sums modulo 2^32 are taken
over them:

- of word x odd weight, the weight depending on the position: whatever happens to a single element
  changes it;
- of a mixture of word and position that is not linear: for what a linear sum cannot see, such as
  the signs of two elements flipped together.

Sums modulo 2^32 do not depend on the order, so neither do fingerprints on the sharding or the
number of devices. Shape and dtype are not part of the number; whoever stores it stores them beside
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

_UNSIGNED = {8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32, 64: jnp.uint32}


def supported(dtype: Any) -> bool:
    """Whether arrays of this dtype have fingerprints: bool, complex, and numbers of 8, 16, 32 or 64
    bits.
    """
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        return False
    if dtype == jnp.bool_ or jnp.issubdtype(dtype, jnp.complexfloating):
        return True
    return jnp.issubdtype(dtype, jnp.number) and _bits(dtype) in _UNSIGNED


def fingerprints(arrays: Sequence[jax.Array]) -> list[str]:
    """Return one fingerprint an array, as 16 hexadecimal digits.

    One compiled program reads all arrays that live on the same devices. With several processes
    every one of them must call this with the same arrays, and gets the same answer.

    Raises:
        TypeError: an array has a dtype that is not `supported`.
    """
    for array in arrays:
        if not supported(array.dtype):
            raise TypeError(f"no fingerprint for arrays of dtype {array.dtype}")
    groups: dict[frozenset[Any], list[int]] = {}
    for index, array in enumerate(arrays):
        groups.setdefault(frozenset(array.sharding.device_set), []).append(index)
    found = [""] * len(arrays)
    for indices in groups.values():
        group = [arrays[i] for i in indices]
        meshes = [a.sharding.mesh for a in group if isinstance(a.sharding, NamedSharding)]
        # Without this the result may come back in pieces, which a process could not read as a
        # whole.
        everywhere = NamedSharding(meshes[0], PartitionSpec()) if meshes else None
        sums = np.asarray(jax.device_get(_compiled(everywhere)(group)))
        for index, (first, second) in zip(indices, sums, strict=True):
            found[index] = f"{int(first):08x}{int(second):08x}"
    return found


_programs: dict[Any, Any] = {}


def _compiled(out_sharding: NamedSharding | None) -> Any:
    if out_sharding not in _programs:
        options: dict[str, Any] = {} if out_sharding is None else {"out_shardings": out_sharding}
        _programs[out_sharding] = jax.jit(
            lambda group: jnp.stack([_sums(a) for a in group]), **options
        )
    return _programs[out_sharding]


# Nested in the program above, so that arrays of one shape are traced once
@jax.jit
def _sums(array: jax.Array) -> jax.Array:
    zero = jnp.uint32(0)
    linear = mixed = zero
    for part, word in enumerate(_words(array)):
        # Positions are put together from one iota a dimension: a reshape would move sharded data
        # about.
        position = jnp.full(array.shape, part << 30, jnp.uint32)
        stride = 1
        for axis in reversed(range(array.ndim)):
            position += lax.broadcasted_iota(jnp.uint32, array.shape, axis) * jnp.uint32(
                stride % 2**32
            )
            stride *= array.shape[axis]
        mask = position * jnp.uint32(0x9E3779B1)
        mask = (mask ^ (mask >> 15)) * jnp.uint32(0x85EBCA77)
        mask ^= mask >> 13
        mix = (word ^ mask) * jnp.uint32(0xC2B2AE3D)
        mix = (mix ^ (mix >> 16)) * jnp.uint32(0x27D4EB2F)
        mix ^= mix >> 15
        # One reduction of both: two single ones read the array twice, and took 15 times as long on
        # a CPU.
        sums = lax.reduce(
            (word * (mask | 1), mix),
            (zero, zero),
            lambda a, b: (a[0] + b[0], a[1] + b[1]),
            tuple(range(array.ndim)),
        )
        linear, mixed = linear + sums[0], mixed + sums[1]
    return jnp.stack([linear, mixed])


def _words(array: jax.Array) -> list[jax.Array]:
    """The bits of each element in 32-bit words: one array, or more for 64 bits and complex
    numbers.
    """
    if array.dtype == jnp.bool_:
        return [array.astype(jnp.uint32)]
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        return _words(array.real) + _words(array.imag)
    bits = _bits(array.dtype)
    words = lax.bitcast_convert_type(array, _UNSIGNED[bits])
    return [words[..., 0], words[..., 1]] if bits == 64 else [words.astype(jnp.uint32)]


def _bits(dtype: Any) -> int:
    return int(
        jnp.iinfo(dtype).bits if jnp.issubdtype(dtype, jnp.integer) else jnp.finfo(dtype).bits
    )
