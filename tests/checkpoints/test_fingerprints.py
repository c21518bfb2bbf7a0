"""Fingerprints of arrays."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ipt_jax.checkpoints.fingerprints import fingerprints
from ipt_jax.checkpoints.record import Damaged, check_arrays, make_record

many_devices = pytest.mark.skipif(len(jax.devices()) < 8, reason="needs 8 devices")

DTYPES = [
    "float32",
    "bfloat16",
    "float16",
    "int32",
    "uint32",
    "int8",
    "uint8",
    "int16",
    "bool",
    "complex64",
]


def random_array(dtype: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    kind = jnp.dtype(dtype)
    data = rng.integers(0, 256, (*shape, kind.itemsize), np.uint8)
    return (data & 1 if dtype == "bool" else data).view(kind).reshape(shape)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(DTYPES), st.integers(0, 29), st.integers(0, 63), st.integers(0, 2**32 - 1))
def test_any_change_of_one_element_changes_the_fingerprint(
    dtype: str, place: int, bit: int, seed: int
) -> None:
    array = random_array(dtype, (2, 3, 5), seed)
    changed = array.copy()
    raw = changed.reshape(-1).view(np.uint8).reshape(30, -1)
    raw[place, bit // 8 % raw.shape[1]] ^= 1 if dtype == "bool" else 1 << bit % 8
    first, second = fingerprints([jnp.asarray(array), jnp.asarray(changed)])
    assert first != second


def test_fingerprints_see_what_a_linear_sum_does_not() -> None:
    x = random_array("float32", (64,), 0)
    two_signs, exchanged, shifted = x.copy(), x.copy(), np.roll(x, 1)
    two_signs[[3, 40]] *= -1
    exchanged[[3, 40]] = exchanged[[40, 3]]
    found = fingerprints([jnp.asarray(a) for a in (x, two_signs, exchanged, shifted, x)])
    assert len(set(found)) == 4
    assert found[0] == found[4]
    assert found[0][:8] == found[1][:8], (
        "the case is the one meant: the first sum alone would not do"
    )


def test_fingerprints_stay_what_they_are() -> None:
    """Checkpoints contain fingerprints: other ones would make older checkpoints look damaged."""
    arrays = [jnp.arange(12, dtype=d).reshape(3, 4) for d in ("float32", "bfloat16", "int8")]
    arrays += [jnp.arange(4) % 2 == 0, jnp.float32(1.5), jnp.zeros((0, 2)), jnp.complex64(1 + 2j)]
    assert fingerprints(arrays) == [
        "58e000005f85aaf7",
        "5e1858e0f6384bc2",
        "dfdb56681f24e371",
        "d4fa0c2ea9be9616",
        "3fc00000f4a15a01",
        "0000000000000000",
        "7f80000014d1240c",
    ]


@many_devices
def test_fingerprints_do_not_depend_on_the_sharding() -> None:
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("a", "b"))
    array = jnp.asarray(random_array("float32", (8, 6, 4), 1))
    specs = [
        PartitionSpec(),
        PartitionSpec("a"),
        PartitionSpec("a", "b"),
        PartitionSpec(None, "b", "a"),
    ]
    arrays = [array, *(jax.device_put(array, NamedSharding(mesh, spec)) for spec in specs)]
    assert len(set(fingerprints(arrays))) == 1


def test_fingerprints_refuse_what_they_cannot_read() -> None:
    with pytest.raises(TypeError, match="no fingerprint for arrays of dtype key"):
        fingerprints([jax.random.key(0)])


@pytest.mark.parametrize("changed", ["params/body/kernel", "moments/body/mu", "ema/body/kernel"])
def test_the_fingerprint_of_every_part_of_a_state_is_compared(changed):
    names = ("params/body/kernel", "moments/body/mu", "ema/body/kernel", "step")
    arrays = {name: jnp.arange(4, dtype=jnp.float32) + i for i, name in enumerate(names)}
    marks = fingerprints(list(arrays.values()))
    saved = make_record(3, {}, arrays, marks)["leaves"]
    check_arrays(arrays, marks, saved)
    arrays[changed] = arrays[changed].at[2].add(1e-6)
    with pytest.raises(Damaged, match=f"1 of 4 arrays are not what was saved: {changed}"):
        check_arrays(arrays, fingerprints(list(arrays.values())), saved)
