"""Compiles the training step for TPUs, on a machine without one, and reports about it."""

from __future__ import annotations

import pathlib
import re
import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ipt_jax import log
from ipt_jax.config import checks
from ipt_jax.data.crops import empty_pair
from ipt_jax.distributed import devices
from ipt_jax.errors import RunError, UserError
from ipt_jax.model import build, flops
from ipt_jax.model.ipt import kernel_name
from ipt_jax.step.state import abstract_state, state_shardings
from ipt_jax.step.train_step import compile_step
from ipt_jax.tasks import make_tasks
from ipt_jax.tpu import estimate, hlo, schedule, traffic
from ipt_jax.tpu.chips import GIB, Chip, Topology
from ipt_jax.versions import install, versions_of


def compile_step_for(
    config: dict[str, Any], topology: Topology, utilisation: float
) -> tuple[dict[str, Any], str]:
    """Compiles the training step of a config for TPU slices.

    The log says what is done, and every half a minute how long it has taken so far.

    Args:
      config: a resolved config.
      topology: the slices.
      utilisation: the assumed share of a chip's peak, for the estimated step time.

    Returns:
      A report, and the text of the compiled program, empty if it needs too much memory.

    Raises:
      UserError: libtpu is missing, or the batch size does not divide by the chips.
      RunError: the compiler refuses the step for another reason than memory.
    """
    with schedule.dumped() as dump:
        return _compile_step_for(config, topology, utilisation, dump)


def _compile_step_for(
    config: dict[str, Any], topology: Topology, utilisation: float, dump: pathlib.Path
) -> tuple[dict[str, Any], str]:
    try:
        mesh = devices.topology_mesh(topology.name, topology.slices)
    except ModuleNotFoundError:
        raise UserError(
            f"ipt compile needs libtpu, the TPU compiler: {install('compile')}"
        ) from None
    except ValueError as error:
        raise UserError(str(error)) from None
    tasks = make_tasks(config["tasks"])
    hosts = len({device.process_index for device in mesh.devices.flat})
    checks.check_batch(ConfigDict(config), len(tasks), mesh.size, hosts)
    model = build(config["model"], tasks, mesh)
    state, shardings = abstract_state(model, config), state_shardings(model, config, mesh)
    # If each step draws one task, the one with the largest images needs the most memory.
    drawn = tasks if config["data"]["draw"] == "all" else (max(tasks, key=lambda task: task.scale),)
    names = tuple(task.name for task in drawn)
    pairs = {
        task.name: empty_pair(task, config["batch_size"] // len(drawn), model.tile)
        for task in drawn
    }
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), pairs)

    samples = config["batch_size"] // mesh.size
    log.logger.info(
        "compiling for %d x %s, %d samples a chip; this takes minutes",
        mesh.size,
        topology.chip.kind,
        samples,
    )
    began = time.perf_counter()
    with log.waiting_for("the trace of the step"):
        lowered = compile_step(model, config, mesh).lower(state, batch)
    log.logger.info("traced in %.0f s; now the compiler", time.perf_counter() - began)
    text, memory, refused = "", None, ""
    try:
        with log.waiting_for("the compiler"):
            compiled = lowered.compile()
        text, memory = compiled.as_text() or "", compiled.memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        refused = str(error)
        if "RESOURCE_EXHAUSTED" not in refused:
            raise RunError(f"the compiler refuses the step: {refused}") from error
    seconds = time.perf_counter() - began

    hbm = estimate.memory_needed(memory, refused, topology.chip.hbm)
    flop = flops.step(model, names, config["batch_size"])
    program = hlo.read_program(text) if text else hlo.Program((), 0)
    report: dict[str, Any] = {
        "topology": topology.name,
        "slices": topology.slices,
        "chip": topology.chip.kind,
        "chips": mesh.size,
        "hosts": hosts,
        "batch": config["batch_size"],
        "batch_per_chip": samples,
        "tasks_per_step": len(names),
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "dtype": config["model"]["dtype"],
        "remat": config["model"]["remat"],
        "sharding": config["sharding"],
        "accumulate": config["optim"]["accumulate"],
        "fits": not refused and hbm["needed"] <= hbm["available"],
        "hbm": hbm,
        "state": bytes_per_chip(state, shardings),
        "flop": flop,
        "flop_per_chip": flop / mesh.size,
        "attention": kernel_name(model.kernel),
        "collectives": program.summary(),
        "traffic": count_traffic(text, topology.chip, schedule.read_bundles(dump))
        if text
        else None,
        "compile_s": seconds,
        "estimate": (
            estimate.estimate_step(flop, config["batch_size"], program, topology, utilisation)
            if text
            else None
        ),
        "advice": [],
        "versions": versions_of("jax", "libtpu"),
    }
    if not report["fits"]:
        gradients = bytes_per_chip(state.params, shardings.params)
        unit = len(names) * config["loss"]["group"]
        report["advice"] = estimate.advise(report, gradients, unit)
        report["compiler"] = re.sub(r"\s+", " ", refused)[:2000]
    return report, text


def count_traffic(text: str, chip: Chip, bundles: dict[str, int]) -> dict[str, Any]:
    """Returns what one chip moves and computes in a step, counted in the text of a program.

    Args:
      text: the compiled program.
      chip: its published figures are used for seconds.
      bundles: from `schedule.read_bundles`.

    Returns:
      "hbm_bytes", "flop_run" of the products, "roofline_s" and "prefetch_s" (see
      `traffic.roofline`), the table "kinds" of `traffic.by_kind`, and for each Pallas kernel
      "name", "times", "bytes", "flop" and "bundles" (None if the compiler did not dump them).
    """
    operations = traffic.read_operations(text)
    seconds, prefetches = traffic.roofline(operations, chip)
    kernels = [one for one in operations if one.kind == traffic.KERNELS]
    return {
        "hbm_bytes": sum(one.bytes for one in operations),
        "flop_run": sum(one.flop for one in operations),
        "roofline_s": seconds,
        "prefetch_s": prefetches,
        "kinds": traffic.by_kind(operations, chip),
        "kernels": [
            {
                "name": one.name,
                "times": one.times,
                "bytes": one.bytes,
                "flop": one.flop,
                "bundles": bundles.get(one.name),
            }
            for one in kernels
        ],
    }


def bytes_per_chip(tree: Any, shardings: Any) -> int:
    """Returns the bytes that each chip holds of a tree of arrays with these shardings."""
    sizes = jax.tree.map(
        lambda x, s: np.prod(s.shard_shape(x.shape), dtype=np.int64) * x.dtype.itemsize,
        tree,
        shardings,
    )
    return int(sum(jax.tree.leaves(sizes)))


def describe_report(report: dict[str, Any]) -> str:
    """Returns a report of `compile_step_for` as text."""
    return "\n".join(
        [
            *_describe_memory(report),
            *_describe_traffic(report),
            *_describe_speed(report),
            *_describe_advice(report),
        ]
    )


def describe_kinds(report: dict[str, Any]) -> str:
    """Returns the traffic of a report of `compile_step_for` by kind of operation, as a table."""
    heading = (
        f"{'kind':<20} {'HBM GB':>8} {'TFLOP':>8} {'roofline ms':>12} {'M cycles':>9} {'runs':>7}"
    )
    rows = [
        f"{row['kind']:<20} {row['bytes'] / 1e9:>8.3f} {row['flop'] / 1e12:>8.3f} "
        f"{1e3 * row['seconds']:>12.2f} {row['cycles'] / 1e6:>9.2f} {row['runs']:>7}"
        for row in report["traffic"]["kinds"]
    ]
    return "\n".join([heading, *rows])


def _describe_traffic(report: dict[str, Any]) -> list[str]:
    found = report["traffic"]
    if found is None:
        return []
    lines = [
        f"HBM moved       {found['hbm_bytes'] / 1e9:.2f} GB a chip, counted in the program; "
        f"FLOP run {found['flop_run'] / 1e12:.3f} T",
        f"roofline        {1e3 * found['roofline_s']:.1f} ms, operation by operation at the "
        f"published rates; prefetches beside them {1e3 * found['prefetch_s']:.1f} ms",
    ]
    for name in sorted({re.sub(r"[.\d]+$", "", one["name"]) for one in found["kernels"]}):
        of_name = [one for one in found["kernels"] if one["name"].startswith(name)]
        bundles = ", ".join(str(one["bundles"]) for one in of_name if one["bundles"])
        lines.append(
            f"kernel          {name}: {sum(one['times'] for one in of_name)} runs, "
            f"{sum(one['bytes'] for one in of_name) / 1e9:.2f} GB"
            + (f", bundles of the static schedule {bundles}" if bundles else "")
        )
    return lines


def _describe_memory(report: dict[str, Any]) -> list[str]:
    hbm = report["hbm"]
    slices = f"{report['slices']} slices of " if report["slices"] > 1 else ""
    lack = (hbm["needed"] - hbm["available"]) / GIB
    verdict = "" if report["fits"] else f": DOES NOT FIT, by {lack:.2f} GiB"
    lines = [
        f"{slices}{report['topology']}: {report['chips']} x {report['chip']}, "
        f"{report['hosts']} hosts",
        f"batch           {report['batch']}, {report['batch_per_chip']} a chip, "
        f"{report['tasks_per_step']} task(s) a step",
        f"model           {report['parameters'] / 1e6:.1f} M parameters, {report['dtype']}, "
        f"model.remat={report['remat']}, sharding={report['sharding']}, "
        f"optim.accumulate={report['accumulate']}, attention {report['attention']}",
        f"HBM a chip      {hbm['needed'] / GIB:.2f} of {hbm['available'] / GIB:.2f} GiB{verdict}",
    ]
    if "arguments" in hbm:
        parts = {key: f"{hbm[key] / GIB:.2f}" for key in estimate.MEMORY_PARTS}
        lines.append(
            f"                arguments {parts['arguments']} + temporary {parts['temporary']} + "
            f"output {parts['output']} - aliased {parts['aliased']} + program {parts['program']}"
        )
    return lines


def _describe_speed(report: dict[str, Any]) -> list[str]:
    lines = [
        f"FLOP a step     {report['flop']:.4g} by formula (model/flops.py), "
        f"{report['flop_per_chip'] / 1e12:.3f} T a chip; recomputation is not counted"
    ]
    step = report["estimate"]
    if step is not None:
        for one in report["collectives"]:
            lines.append(
                f"{one['kind']:<15} {one['count']} a step, {one['bytes'] / 1e6:.1f} MB on a chip"
            )
        if not report["collectives"]:
            lines.append("collectives     none")
        lines.append(
            f"step, estimated {1e3 * step['step_s']:.1f} ms: "
            f"compute {1e3 * step['compute_s']:.1f}, "
            f"collectives {1e3 * step['collectives_s']:.1f}; "
            f"{step['samples_per_s']:.0f} samples/s, MFU {100 * step['mfu']:.0f} %"
        )
        if step["compiler_s"] is not None:
            lines.append(
                "                the compiler's estimate of cycles gives "
                f"{1e3 * step['compiler_s']:.1f} ms: it counts the slots of instructions, and "
                "neither the memory's rate nor kernels"
            )
        lines += [f"  assumed: {text}" for text in step["assumptions"]]
    return lines


def _describe_advice(report: dict[str, Any]) -> list[str]:
    found = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [f"compiled in     {report['compile_s']:.0f} s with {found}"]
    if report["advice"]:
        lines += ["settings that would fit:", *(f"  {text}" for text in report["advice"])]
    return lines
