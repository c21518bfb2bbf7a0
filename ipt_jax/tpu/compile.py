"""`ipt compile`: the training step through the real TPU compiler, for a slice that is not here."""

from __future__ import annotations

import argparse
import json
import re
import time
from typing import Any

from ipt_jax.errors import RunError, UserError
from ipt_jax.tpu import chips
from ipt_jax.tpu import estimate as fit

ABOUT = """Compiles the very step that `ipt pretrain` would run on a TPU slice, on a machine without one (the extra `tpu`
brings the compiler). Prints what it needs of each chip's memory, its FLOPs, every collective, and an estimated step time.
Exit code 1 if it does not fit; then it says by how much, and what would. Takes minutes."""
# What share of the peak the products are assumed to reach; a plain assumption, not a measurement.
UTILISATION = 0.45


def add_parser(commands: Any) -> None:
    """`ipt compile`."""
    command = commands.add_parser(
        "compile",
        allow_abbrev=False,
        help="compile for a TPU slice, without one",
        description=ABOUT,
    )
    command.add_argument(
        "--config",
        required=True,
        metavar="FILE",
        help="a config file; FILE:ARGUMENT as for pretrain",
    )
    command.add_argument(
        "--topology",
        required=True,
        metavar="NAME",
        help="v5e:16x16, v4:2x2x2, v5p:2x2x1, v6e:2x4, ...",
    )
    command.add_argument(
        "--slices",
        type=int,
        default=1,
        metavar="N",
        help="so many of these, over the data-centre network",
    )
    command.add_argument(
        "--batch-per-chip",
        type=int,
        default=0,
        metavar="N",
        help="samples a chip (default: the config's)",
    )
    command.add_argument(
        "--utilisation",
        type=float,
        default=UTILISATION,
        metavar="SHARE",
        help=f"share of the peak assumed for the estimated step time (default: {UTILISATION})",
    )
    command.add_argument("--json", metavar="FILE", help="also write the report there")
    command.add_argument("--hlo", metavar="FILE", help="also write the compiled program there")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Runs `ipt compile`.

    Raises:
      UserError: no such config, topology, compiler or folder, or a batch that does not divide.
    """
    import pathlib

    from ipt_jax.config import checks, resolve
    from ipt_jax.config import loading as configs

    where = chips.topology(options.topology, options.slices)
    if not 0 < options.utilisation <= 1:
        raise UserError(
            f"--utilisation={options.utilisation}: a share of the peak, above 0 and at most 1"
        )
    if options.batch_per_chip < 0:
        raise UserError(f"--batch-per-chip={options.batch_per_chip}: at least 1")
    # Before the minutes that it takes, not after
    for flag, file in (("json", options.json), ("hlo", options.hlo)):
        if file and not pathlib.Path(file).absolute().parent.is_dir():
            raise UserError(f"--{flag}={file}: there is no folder {pathlib.Path(file).parent}")
    config = configs.load(options.config, [*options.overrides, "devices=0"])
    if options.batch_per_chip:
        config.batch_size = options.batch_per_chip * where.chips
    checks.check_batch(config, len(config.tasks), where.chips, 1)
    report, text = compile_for(resolve.resolve(config), where, options.utilisation)
    print(describe(report))
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    if options.hlo and text:
        pathlib.Path(options.hlo).write_text(text)
    return 0 if report["fits"] else 1


def compile_for(
    plain: dict[str, Any], where: chips.Topology, utilisation: float
) -> tuple[dict[str, Any], str]:
    """(report, compiled program's text, empty if it did not compile) of a resolved config's step.

    Raises:
      UserError: libtpu is missing, or the batch does not divide by the chips.
      RunError: the compiler refuses the step for another reason than memory.
    """
    import jax
    import numpy as np
    from ml_collections import ConfigDict

    from ipt_jax import log, versions
    from ipt_jax.config import checks
    from ipt_jax.data.crops import empty_pair
    from ipt_jax.distributed import devices
    from ipt_jax.model import build, flops
    from ipt_jax.step.state import abstract_state, state_shardings
    from ipt_jax.step.train_step import compile_step
    from ipt_jax.tasks import make_tasks

    try:
        mesh = devices.topology_mesh(where.name, where.slices)
    except ModuleNotFoundError:
        raise UserError(
            "ipt compile needs libtpu, the TPU compiler: pip install 'ipt_jax[tpu]'"
        ) from None
    except ValueError as error:
        raise UserError(str(error)) from None
    tasks = make_tasks(plain["tasks"])
    hosts = len({device.process_index for device in mesh.devices.flat})
    checks.check_batch(ConfigDict(plain), len(tasks), mesh.size, hosts)
    model = build(plain["model"], tasks)
    state, kept = abstract_state(model, plain), state_shardings(model, plain, mesh)
    # Of tasks drawn one a step, the one with the largest pictures.
    drawn = tasks if plain["data"]["draw"] == "all" else (max(tasks, key=lambda task: task.scale),)
    names = tuple(task.name for task in drawn)
    pairs = {
        task.name: empty_pair(task, plain["batch_size"] // len(drawn), model.tile) for task in drawn
    }
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), pairs)

    samples = plain["batch_size"] // mesh.size
    log.logger.info(
        "compiling for %d x %s, %d samples a chip; this takes minutes",
        mesh.size,
        where.chip.kind,
        samples,
    )
    began = time.perf_counter()
    lowered = compile_step(model, plain, mesh).lower(state, batch)
    text, memory, refused = "", None, ""
    try:
        compiled = lowered.compile()
        text, memory = compiled.as_text() or "", compiled.memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        refused = str(error)
        if "RESOURCE_EXHAUSTED" not in refused:
            raise RunError(f"the compiler refuses the step: {refused}") from error
    seconds = time.perf_counter() - began

    # Bytes of a tree on one chip
    def held(tree: Any, places: Any) -> int:
        sizes = jax.tree.map(
            lambda x, s: np.prod(s.shard_shape(x.shape), dtype=np.int64) * x.dtype.itemsize,
            tree,
            places,
        )
        return int(sum(jax.tree.leaves(sizes)))

    hbm = fit.memory(memory, refused, where.chip.hbm)
    work = flops.step(model, names, plain["batch_size"])
    program = fit.read(text)
    report: dict[str, Any] = {
        "topology": where.name,
        "slices": where.slices,
        "chip": where.chip.kind,
        "chips": mesh.size,
        "hosts": hosts,
        "batch": plain["batch_size"],
        "batch_per_chip": samples,
        "tasks_per_step": len(names),
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "dtype": plain["model"]["dtype"],
        "remat": plain["model"]["remat"],
        "sharding": plain["sharding"],
        "accumulate": plain["optim"]["accumulate"],
        "fits": not refused and hbm["needed"] <= hbm["available"],
        "hbm": hbm,
        "state": held(state, kept),
        "flop": work,
        "flop_per_chip": work / mesh.size,
        "collectives": program.summary(),
        "compile_s": seconds,
        "estimate": fit.estimate(work, plain["batch_size"], program, where, utilisation)
        if text
        else None,
        "advice": [],
        "versions": versions.versions("jax", "libtpu"),
    }
    if not report["fits"]:
        gradients = held(state.params, kept.params)
        report["advice"] = fit.advice(report, gradients, len(names) * plain["loss"]["group"])
        report["compiler"] = re.sub(r"\s+", " ", refused)[:2000]
    return report, text


def describe(report: dict[str, Any]) -> str:
    """The report for people."""
    gib, hbm, estimate = chips.GIB, report["hbm"], report["estimate"]
    slices = f"{report['slices']} slices of " if report["slices"] > 1 else ""
    lines = [
        f"{slices}{report['topology']}: {report['chips']} x {report['chip']}, {report['hosts']} "
        "hosts",
        f"batch           {report['batch']}, {report['batch_per_chip']} a chip, "
        f"{report['tasks_per_step']} task(s) a step",
        f"model           {report['parameters'] / 1e6:.1f} M parameters, {report['dtype']}, "
        f"model.remat={report['remat']}, "
        f"sharding={report['sharding']}, optim.accumulate={report['accumulate']}",
        f"HBM a chip      {hbm['needed'] / gib:.2f} of {hbm['available'] / gib:.2f} GiB"
        + (
            ""
            if report["fits"]
            else f": DOES NOT FIT, by {(hbm['needed'] - hbm['available']) / gib:.2f} GiB"
        ),
    ]
    if "arguments" in hbm:
        lines.append(
            f"                arguments {hbm['arguments'] / gib:.2f} + temporary "
            f"{hbm['temporary'] / gib:.2f} + "
            f"output {hbm['output'] / gib:.2f} - aliased {hbm['aliased'] / gib:.2f} + program "
            f"{hbm['program'] / gib:.2f}"
        )
    lines.append(
        f"FLOP a step     {report['flop']:.4g} by formula (model/flops.py), "
        f"{report['flop_per_chip'] / 1e12:.3f} T a chip; "
        "what is computed again is not counted"
    )
    if estimate is not None:
        for one in report["collectives"]:
            lines.append(
                f"{one['kind']:<15} {one['count']} a step, {one['bytes'] / 1e6:.1f} MB on a chip"
            )
        if not report["collectives"]:
            lines.append("collectives     none")
        lines.append(
            f"step, estimated {1e3 * estimate['step_s']:.1f} ms: compute "
            f"{1e3 * estimate['compute_s']:.1f}, collectives "
            f"{1e3 * estimate['collectives_s']:.1f}; {estimate['samples_per_s']:.0f} samples/s, "
            f"MFU {100 * estimate['mfu']:.0f} %"
        )
        if estimate["compiler_s"] is not None:
            lines.append(
                "                the compiler's own estimate of cycles gives "
                f"{1e3 * estimate['compiler_s']:.1f} ms"
            )
        lines += [f"  assumed: {text}" for text in estimate["assumptions"]]
    lines.append(
        f"compiled in     {report['compile_s']:.0f} s with "
        + ", ".join(f"{k} {v}" for k, v in report["versions"].items())
    )
    if report["advice"]:
        lines += ["what would fit:", *(f"  {text}" for text in report["advice"])]
    return "\n".join(lines)
