"""Values, gradients and times of attention's kernels on the device at hand."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ipt_jax.bench.step import time_calls
from ipt_jax.distributed import devices
from ipt_jax.errors import ConfigError
from ipt_jax.model import IPT, build
from ipt_jax.model.attention import Attention
from ipt_jax.model.fused_attention import FusedAttention
from ipt_jax.model.init import STARTS
from ipt_jax.model.ipt import choose_kernel
from ipt_jax.tasks import make_tasks

Array = jax.Array

# The three forms of the body: which of the inputs a, b, c are query, key and value.
FORMS = {"self": (0, 0, 0), "decoder, q = k": (0, 0, 1), "cross": (0, 1, 1)}
KERNELS = ("plain", "fused", "cudnn")


def measure_attention(
    config: Mapping[str, Any], samples: int, calls: int, interpret: bool = False
) -> dict[str, Any]:
    """Compares the kernels of a config's attention on one device, with their projections.

    Every kernel computes the forward and the backward pass of each form; values and gradients are
    compared with plain attention in float32.

    Args:
      config: a resolved config; its `model` part counts.
      samples: images in a call.
      calls: timed calls.
      interpret: run the fused kernel in Pallas' interpreter, on any device, to check its numbers.

    Returns:
      What was measured, and "forms": for each form and kernel `seconds` (median), `value_error` and
      `gradient_error`, the largest difference as a share of the largest magnitude; or `refused`,
      why the kernel cannot run here.
    """
    mesh = devices.make_mesh(1)
    model = build(config["model"], make_tasks(config["tasks"]))
    rng = np.random.default_rng(0)
    shape = (samples, model.tokens, model.width)
    inputs = [rng.normal(size=shape).astype(np.float32) for _ in range(2)]
    # The gradient that reaches the result.
    arriving = rng.normal(size=shape).astype(np.float32)
    chosen = _kernels(model, mesh, interpret)
    forms: dict[str, Any] = {}
    for form, places in FORMS.items():
        exact = _Pass(model, None, jnp.float32, places)
        params = exact.init(inputs)
        expected = exact.run(params, inputs, arriving)
        forms[form] = {}
        for name, kernel in chosen.items():
            if isinstance(kernel, ConfigError):
                forms[form][name] = {"refused": str(kernel)}
                continue
            tried = _Pass(model, kernel, model.dtype, places)
            found = tried.run(params, inputs, arriving)
            call = functools.partial(tried.run, params, inputs, arriving)
            seconds = time_calls(call, calls)
            forms[form][name] = {
                "seconds": statistics.median(seconds),
                "value_error": _error(found[0], expected[0]),
                "gradient_error": max(map(_error, *map(jax.tree.leaves, (found[1], expected[1])))),
            }
    return {
        "device": jax.devices()[0].device_kind,
        "dtype": str(model.dtype),
        "heads": model.heads,
        "head_size": model.width // model.heads,
        "tokens": model.tokens,
        "samples": samples,
        "calls": calls,
        "interpreted": interpret,
        "forms": forms,
    }


def describe_attention(found: Mapping[str, Any]) -> str:
    """Returns the result of `measure_attention` as a table."""
    lines = [f"{'form':<16} {'kernel':<8} {'ms':>9} {'values off by':>14} {'gradients':>10}"]
    for form, kernels in found["forms"].items():
        for name, one in kernels.items():
            if "refused" in one:
                lines.append(f"{form:<16} {name:<8} {one['refused']}")
            else:
                lines.append(
                    f"{form:<16} {name:<8} {1e3 * one['seconds']:>9.3f} "
                    f"{one['value_error']:>14.1e} {one['gradient_error']:>10.1e}"
                )
    return "\n".join(lines)


def _kernels(
    model: IPT, mesh: jax.sharding.Mesh, interpret: bool
) -> dict[str, FusedAttention | str | ConfigError | None]:
    """Returns each kernel, or why it cannot be used here."""
    found: dict[str, FusedAttention | str | ConfigError | None] = {}
    for name in KERNELS:
        try:
            found[name] = choose_kernel(name, model, mesh)
        except ConfigError as error:
            found[name] = error
    if interpret:
        found["fused"] = FusedAttention(model.tokens, None, interpret=True)
    return found


class _Pass:
    """The forward and backward pass of one form with one kernel."""

    def __init__(self, model: IPT, kernel: Any, dtype: Any, places: tuple[int, int, int]):
        layer = Attention(model.heads, STARTS["torch"], dtype, 1, kernel=kernel)
        rows = isinstance(kernel, FusedAttention)
        shape = (-1, model.width) if rows else (-1, model.tokens, model.width)

        def result(params: Any, inputs: list[Array]) -> Any:
            given = [x.reshape(shape).astype(dtype) for x in inputs]
            mixed: Any = layer.apply({"params": params}, *(given[place] for place in places))
            return mixed

        def run(params: Any, inputs: list[Array], arriving: Array) -> tuple[Array, Any]:
            value, backward = jax.vjp(result, params, inputs)
            return value, backward(arriving.reshape(value.shape).astype(dtype))

        self.run: Callable[..., tuple[Array, Any]] = jax.jit(run)
        self._layer, self._places = layer, places

    def init(self, inputs: list[np.ndarray]) -> Any:
        """Returns parameters for inputs of these shapes."""
        one = [x[:1] for x in inputs]
        given = [one[place] for place in self._places]
        return self._layer.init(jax.random.key(0), *given)["params"]


def _error(found: Array, expected: Array) -> float:
    """Returns the largest difference as a share of the largest magnitude."""
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    largest, off = np.abs(b).max(), np.abs(a.reshape(b.shape) - b).max()
    # The gradient of an input that a form does not use is zero.
    return float(off / largest) if largest else float(off)
