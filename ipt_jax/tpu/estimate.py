"""Does a compiled step fit a chip, how long might it take, and what would fit if it does not:
arithmetic, no jax.
"""

from __future__ import annotations

import math
import re
from typing import Any

from ipt_jax.tpu import hlo
from ipt_jax.tpu.chips import GIB, SOURCE, Topology

# Temporary memory under `model.remat`, as a share of what "none" needs, for the paper's model as
# compiled for v5e and v5p (docs/performance.md): the larger of the two, rounded up.
KEPT = {"none": 1.0, "elementwise": 0.52, "dots": 0.35, "layer": 0.15}


def read(text: str) -> hlo.Program:
    """The program, empty where there is none."""
    return hlo.read(text) if text else hlo.Program((), 0)


def memory(analysis: Any, refused: str, available: float) -> dict[str, float]:
    """Bytes of a chip's memory that the program needs and has: by the compiler's account, or from
    its refusal.

    Args:
      analysis: `compiled.memory_analysis()`, or None if it did not compile.
      refused: the compiler's RESOURCE_EXHAUSTED message, or "".
      available: bytes that a chip has, where the message does not say.
    """
    if analysis is not None:
        parts = {
            "arguments": analysis.argument_size_in_bytes,
            "temporary": analysis.temp_size_in_bytes,
            "output": analysis.output_size_in_bytes,
            "aliased": analysis.alias_size_in_bytes,
            "program": analysis.generated_code_size_in_bytes,
        }
        needed = sum(parts.values()) - 2 * parts["aliased"]
        return {"needed": needed, "available": available, **parts}
    sizes = [
        _size(*found)
        for found in re.findall(r"\b(\d+(?:\.\d+)?)([KMGT]?)(?=[\s).,]|$)", _figures(refused))
    ]
    needed = sizes[0] if sizes else math.nan
    return {"needed": needed, "available": sizes[1] if len(sizes) > 1 else available}


def _figures(refused: str) -> str:
    """The part of a refusal that holds (needed, available), in either of the compiler's
    wordings.
    """
    for pattern in (
        r"temporaries \((\S+)\) exceeds available HBM \((\S+)\)",
        r"Used (\S+) of (\S+) hbm",
    ):
        found = re.search(pattern, refused)
        if found is not None:
            return f"{found.group(1)} {found.group(2)}"
    return ""


def _size(number: str, unit: str) -> float:
    return float(number) * 1024.0 ** " KMGT".index(unit or " ")


def estimate(
    flop: float, samples: int, program: hlo.Program, where: Topology, utilisation: float
) -> dict[str, Any]:
    """A roofline for one step: products at a share of the peak, then the collectives, one after the
    other.
    """
    chip = where.chip
    compute = flop / where.chips / (chip.peak * utilisation)
    within = where.chips // where.slices
    collectives = 0.0
    assumptions = [
        f"products at {100 * utilisation:.0f} % of the peak, {chip.peak / 1e12:.0f} TFLOP/s "
        "bfloat16 a chip",
        "collectives not overlapped with products, as rings over all links of a chip, "
        f"{chip.ici / 1e9:.0f} GB/s out of it",
    ]
    for one in program.collectives:
        passes = 2 if one.kind == "all-reduce" else 1
        collectives += one.times * one.bytes * passes * (within - 1) / within / chip.ici
        # Each chip carries its share of what its slice has reduced
        if where.slices > 1 and chip.dcn is not None:
            between = passes * (where.slices - 1) / where.slices / within
            collectives += one.times * one.bytes * between / chip.dcn
    if where.slices > 1:
        rate = (
            "left out: no figure is published"
            if chip.dcn is None
            else f"{chip.dcn / 1e9:.1f} GB/s a chip"
        )
        assumptions.append(f"between slices {rate}")
    step = compute + collectives
    cycles = program.cycles / chip.clock if chip.clock is not None and program.cycles else None
    if cycles is not None:
        assumptions.append(
            f"the compiler's cycles at {(chip.clock or 0) / 1e9:.2f} GHz, one operation after the "
            "other"
        )
    return {
        "step_s": step,
        "compute_s": compute,
        "collectives_s": collectives,
        "samples_per_s": samples / step,
        "mfu": flop / where.chips / chip.peak / step,
        "compiler_s": cycles,
        "cycles": program.cycles,
        "assumptions": [*assumptions, SOURCE],
    }


def advice(report: dict[str, Any], gradients: int, unit: int) -> list[str]:
    """What would fit, as changes of the command, each with about what it needs.

    Args:
      report: of a step that does not fit.
      gradients: bytes of the gradients on one chip.
      unit: samples that a chip's batch must be a multiple of.
    """
    needed, available = report["hbm"]["needed"], report["hbm"]["available"]
    fixed = report["state"] + gradients
    samples, parts = report["batch_per_chip"], report["accumulate"]
    room = available - fixed
    # What a micro-batch keeps, linear in its size
    per_sample = (needed - fixed) / (samples / parts)
    found = []

    def about(micro: float, share: float = 1.0) -> str:
        return (
            f"about {(fixed + micro * per_sample * share) / GIB:.1f} of {available / GIB:.2f} GiB"
        )

    if math.isnan(needed) or per_sample <= 0:
        return ["a smaller --batch-per-chip; the compiler did not say how much it needs"]
    if room > 0:
        fits = int(room / per_sample) // unit * unit
        if fits:
            found.append(
                f"--batch-per-chip={min(fits * parts, samples - unit)}: "
                f"{about(min(fits, samples / parts))}"
            )
        remats = list(KEPT)
        for remat in remats[remats.index(report["remat"]) + 1 :]:
            share = KEPT[remat] / KEPT[report["remat"]]
            if fixed + samples / parts * per_sample * share <= available:
                found.append(
                    f"--config.model.remat={remat}: {about(samples / parts, share)}, at the cost "
                    "of computing again"
                )
        for count in range(parts + 1, samples // unit + 1):
            if samples % (count * unit) == 0 and samples / count <= fits:
                found.append(f"--config.optim.accumulate={count}: {about(samples / count)}")
                break
    if (
        report["sharding"] == "data"
        and report["chips"] > 1
        and (room <= 0 or fixed > available / 4)
    ):
        found.append(
            f"--config.sharding=fsdp: the state, {report['state'] / GIB:.1f} GiB on every chip, in "
            "pieces"
        )
    if not found:
        found.append(
            "none of batch, rematerialisation and accumulation alone: combine them, or take chips "
            "with more memory"
        )
    return found
