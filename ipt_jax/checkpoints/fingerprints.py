"""64-bit fingerprints of arrays, computed where the arrays live.

Each element is read as 32-bit words (its bits, not its value), and a fingerprint consists of two
sums of these words modulo 2^32:

- the first sum weighs each word with an odd number that depends on the position. Any change of a
  single element changes this sum;
- the second sum mixes word and position in a way that is not linear. It detects what a linear sum
  misses, such as the signs of two elements flipped together.

Sums modulo 2^32 do not depend on the order, so fingerprints do not depend on the sharding or the
number of devices. Shape and dtype are not part of a fingerprint; `record.py` stores them beside it.
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
    """Returns whether arrays of this dtype have fingerprints.

    Bool, complex, and numbers of 8, 16, 32 or 64 bits have them.
    """
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        return False
    if dtype == jnp.bool_ or jnp.issubdtype(dtype, jnp.complexfloating):
        return True
    return jnp.issubdtype(dtype, jnp.number) and _bits(dtype) in _UNSIGNED


def fingerprints(arrays: Sequence[jax.Array]) -> list[str]:
    """Returns the fingerprint of each array, as 16 hexadecimal digits.

    One compiled program reads all arrays that are on the same devices. With several processes, all
    of them must call this with the same arrays, and get the same result.

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
        # Otherwise the result may be sharded, and a process could not read all of it.
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


# This is jitted within the program above so that arrays of one shape are traced once.
@jax.jit
def _sums(array: jax.Array) -> jax.Array:
    """Returns the two sums of an array, uint32 `[2]`."""
    zero = jnp.uint32(0)
    linear = mixed = zero
    for part, word in enumerate(_words(array)):
        # Positions come from one iota per dimension, because a reshape would move sharded data.
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
        # One reduction computes both sums: two reductions read the array twice, and took 15 times
        # as long on a CPU.
        sums = lax.reduce(
            (word * (mask | 1), mix),
            (zero, zero),
            lambda a, b: (a[0] + b[0], a[1] + b[1]),
            tuple(range(array.ndim)),
        )
        linear, mixed = linear + sums[0], mixed + sums[1]
    return jnp.stack([linear, mixed])


def _words(array: jax.Array) -> list[jax.Array]:
    """Returns the bits of each element as 32-bit words, in one array or several.

    Elements of 64 bits and complex numbers have several words.
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
