"""Memory and time of a compiled step on a chip, and settings that would fit. Uses no jax."""

from __future__ import annotations

import math
import re
from typing import Any

from ipt_jax.tpu import hlo
from ipt_jax.tpu.chips import GIB, SOURCE, Topology

# The share of the peak that matrix products are assumed to reach. It was not measured.
UTILISATION = 0.45

# Parts of a step's memory, in the order in which a report shows them.
MEMORY_PARTS = ("arguments", "temporary", "output", "aliased", "program")

# Temporary memory for each `model.remat`, as a share of that of "none". Measured on the paper's
# model compiled for v5e and v5p (docs/performance.md): the larger of the two, rounded up.
REMAT_SHARE = {"none": 1.0, "elementwise": 0.52, "dots": 0.35, "layer": 0.15}


def memory_needed(analysis: Any, refused: str, available: float) -> dict[str, float]:
    """Returns the bytes of a chip's memory that a program needs ("needed") and has ("available").

    Args:
      analysis: `compiled.memory_analysis()`, or None if the program did not compile.
      refused: the compiler's RESOURCE_EXHAUSTED message, or "".
      available: bytes that a chip has, used where the message has no such figure.

    Returns:
      "needed" is NaN if a refusal has no figures. With an analysis, also the `MEMORY_PARTS`.
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
    """Returns "NEEDED AVAILABLE" from a refusal, in either of the compiler's wordings, or ""."""
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


def estimate_step(
    flop: float, samples: int, program: hlo.Program, topology: Topology, utilisation: float
) -> dict[str, Any]:
    """Estimates the time of a step by a roofline: first the matrix products, then the collectives.

    Args:
      flop: of a step, on all chips.
      samples: of a step, on all chips.
      program: the compiled step.
      topology: the slices that it runs on.
      utilisation: the assumed share of a chip's peak.

    Returns:
      Seconds (`step_s`, `compute_s`, `collectives_s`, and `compiler_s` from the compiler's cycles,
      None if unknown), `samples_per_s`, `mfu`, `cycles`, and `assumptions` as text.
    """
    chip = topology.chip
    compute = flop / topology.chips / (chip.peak * utilisation)
    chips_per_slice = topology.chips // topology.slices
    collectives = 0.0
    assumptions = [
        f"matrix products at {100 * utilisation:.0f} % of the peak, {chip.peak / 1e12:.0f} TFLOP/s "
        "bfloat16 a chip",
        "collectives not overlapped with products, as rings over all links of a chip, which send "
        f"{chip.ici / 1e9:.0f} GB/s",
    ]
    for one in program.collectives:
        passes = 2 if one.kind == "all-reduce" else 1
        collectives += (
            one.times * one.bytes * passes * (chips_per_slice - 1) / chips_per_slice / chip.ici
        )
        # Between slices, each chip sends its share of what its slice has reduced.
        if topology.slices > 1 and chip.dcn is not None:
            between = passes * (topology.slices - 1) / topology.slices / chips_per_slice
            collectives += one.times * one.bytes * between / chip.dcn
    if topology.slices > 1:
        rate = (
            "not counted, because no figure is published"
            if chip.dcn is None
            else f"{chip.dcn / 1e9:.1f} GB/s a chip"
        )
        assumptions.append(f"between slices: {rate}")
    step = compute + collectives
    cycles = program.cycles / chip.clock if chip.clock is not None and program.cycles else None
    if cycles is not None:
        assumptions.append(
            f"the compiler's cycles at {(chip.clock or 0) / 1e9:.2f} GHz, with one operation at a "
            "time"
        )
    return {
        "step_s": step,
        "compute_s": compute,
        "collectives_s": collectives,
        "samples_per_s": samples / step,
        "mfu": flop / topology.chips / chip.peak / step,
        "compiler_s": cycles,
        "cycles": program.cycles,
        "assumptions": [*assumptions, SOURCE],
    }


def advise(report: dict[str, Any], gradients: int, unit: int) -> list[str]:
    """Returns changes of the command that would fit, each with the memory that it would need.

    Args:
      report: about a step that does not fit.
      gradients: bytes of the gradients on one chip.
      unit: the batch of a chip must be a multiple of this number of samples.
    """
    needed, available = report["hbm"]["needed"], report["hbm"]["available"]
    fixed = report["state"] + gradients
    samples, parts = report["batch_per_chip"], report["accumulate"]
    room = available - fixed
    # The memory of a micro-batch is assumed to be linear in its size.
    per_sample = (needed - fixed) / (samples / parts)
    found = []

    def about(micro: float, share: float = 1.0) -> str:
        return (
            f"about {(fixed + micro * per_sample * share) / GIB:.1f} of {available / GIB:.2f} GiB"
        )

    if math.isnan(needed) or per_sample <= 0:
        return ["a smaller --batch-per-chip; the compiler does not state how much memory is needed"]
    if room > 0:
        fits = int(room / per_sample) // unit * unit
        if fits:
            found.append(
                f"--batch-per-chip={min(fits * parts, samples - unit)}: "
                f"{about(min(fits, samples / parts))}"
            )
        remats = list(REMAT_SHARE)
        for remat in remats[remats.index(report["remat"]) + 1 :]:
            share = REMAT_SHARE[remat] / REMAT_SHARE[report["remat"]]
            if fixed + samples / parts * per_sample * share <= available:
                found.append(
                    f"--config.model.remat={remat}: {about(samples / parts, share)}, at the cost "
                    "of recomputation"
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
            "--config.sharding=fsdp: splits the state, which takes "
            f"{report['state'] / GIB:.1f} GiB on every chip"
        )
    if not found:
        found.append(
            "no single change of batch, rematerialisation or accumulation: combine them, or use "
            "chips with more memory"
        )
    return found
