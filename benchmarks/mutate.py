"""Measures how many single faults the tests notice: `make mutate`.

cosmic-ray lists the small changes that can be made to a module: another operator, another number,
a comparison turned round. A seeded sample of them is put in, one at a time, into a copy of the
working tree, and the tests that concern the module run until one of them fails. A change after
which all of them pass is a survivor: either it cannot matter, or a test is missing.

    python benchmarks/mutate.py                     all modules, at most three hours
    python benchmarks/mutate.py losses tiling       two of them
    python benchmarks/mutate.py --count=10 --hours=0.5

The results are in runs/mutate: a session of cosmic-ray for each module (`cr-report` reads it),
`table.md`, and `survivors.md` with their diffs. Needs the extra "mutate".
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import math
import os
import pathlib
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent

STEP = "tests/step/test_train_step.py"

# Files to change, and the tests that concern them, the most telling first.
MODULES: dict[str, tuple[list[str], list[str]]] = {
    "losses": (["ipt_jax/step/losses.py"], ["tests/step/test_losses.py"]),
    "metrics": (["ipt_jax/metrics.py"], ["tests/test_metrics.py"]),
    "tiling": (
        ["ipt_jax/restore/tiling.py", "ipt_jax/restore/strips.py", "ipt_jax/restore/ensemble.py"],
        ["tests/restore/test_images.py", "tests/restore/test_strips.py"],
    ),
    "optim": (
        ["ipt_jax/step/optim.py"],
        [
            "tests/step/test_optim.py",
            f"{STEP}::test_muon_moves_matrices_by_orthogonal_steps_and_the_rest_as_adam",
            f"{STEP}::test_the_update_is_adams",
        ],
    ),
    "crops": (
        ["ipt_jax/data/crops.py"],
        [
            "tests/data/test_crops.py",
            "tests/data/sources/test_pairs.py",
            "tests/degradations/test_crops_of_degraded.py",
        ],
    ),
    "degradations": (
        [f"ipt_jax/degradations/{name}.py" for name in ("noise", "rain", "blur", "jpeg", "chain")]
        + ["ipt_jax/degradations/base.py", "ipt_jax/images/resize.py"],
        ["tests/degradations"],
    ),
    "step": (
        ["ipt_jax/step/train_step.py"],
        [
            f"{STEP}::{test}"
            for test in (
                "test_accumulation_on_devices_keeps_rows_in_place",
                "test_groups_never_cross_devices",
                "test_the_update_is_adams",
                "test_the_loss_is_the_mean_over_tasks_plus_lambda_times_the_contrast",
                "test_a_step_that_is_not_finite_changes_only_the_counters",
                "test_accumulation_is_the_mean_over_micro_batches",
                "test_what_was_not_drawn_stays_bit_for_bit",
                "test_parameters_after_five_steps_do_not_depend_on_the_devices",
            )
        ],
    ),
    "checkpoints": (
        [f"ipt_jax/checkpoints/{name}.py" for name in ("checkpoints", "fingerprints", "record")],
        ["tests/checkpoints"],
    ),
    "weights": (
        [f"ipt_jax/weights/{name}.py" for name in ("state_dict", "folder", "authors", "run")],
        ["tests/weights", "tests/test_output.py"],
    ),
    "restorer": (
        ["ipt_jax/restore/restorer.py", "ipt_jax/restore/batches.py"],
        [
            "tests/restore/test_images.py",
            "tests/restore/test_transparent.py",
            "tests/restore/test_files.py",
        ],
    ),
}

# The template of a module's session. What is left out cannot matter, or fails at once and so tells
# nothing: `|` stands in type hints, decorators are those of dataclasses and caches, and bit
# operations on floating-point numbers raise TypeError.
CONFIG = """
[cosmic-ray]
module-path = {files}
timeout = {timeout}
test-command = "{tests}"

[cosmic-ray.distributor]
name = "local"

[cosmic-ray.filters.operators-filter]
exclude-operators = [
    "core/ReplaceBinaryOperator_BitOr_.*",
    "core/ReplaceBinaryOperator_.*_(Bit.*|.Shift|Pow|Mod)$",
    "core/RemoveDecorator",
]
"""

# Imported once: every changed tree is tested in a fork of this process, so that a mutant does not
# pay seconds of imports. They start no threads, and no device before the fork.
PRELOADED = (
    "numpy",
    "cv2",
    "PIL.Image",
    "jax.numpy",
    "flax.linen",
    "optax",
    "orbax.checkpoint",
    "grain.python",
    "hypothesis",
    "pytest",
    "ml_collections",
    "etils.epath",
)


def main() -> int:
    """Runs the modules that the command line names, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=", ".join(MODULES))
    parser.add_argument("--count", type=int, default=40, help="changes of each module")
    parser.add_argument("--hours", type=float, default=3.0, help="for all modules together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=REPOSITORY / "runs" / "mutate")
    options = parser.parse_args()
    if unknown := set(options.modules) - set(MODULES):
        parser.error(f"no module {', '.join(sorted(unknown))}; there are {', '.join(MODULES)}")
    names = options.modules or list(MODULES)
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + options.hours * 3600
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        copy = pathlib.Path(folder, "tree")
        copy_tree(copy)
        prepare_process(copy, out / "jax")
        for i, name in enumerate(names):
            # What a module does not need of its share is left to the others.
            share = (end - time.monotonic()) / (len(names) - i)
            run_module(name, copy, out, options.count, options.seed, time.monotonic() + share)
            write_report(out)
    print((out / "table.md").read_text())
    return 0


def copy_tree(copy: pathlib.Path) -> None:
    """Copies the files that git knows or does not ignore, with their present content."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=REPOSITORY, check=True, capture_output=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (REPOSITORY / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, copy / name)


def prepare_process(copy: pathlib.Path, cache: pathlib.Path) -> None:
    """Enters the copy, sets the tests' environment, and imports what all of them need."""
    os.chdir(copy)
    # The copy comes before the package that is installed, also in processes that tests start.
    sys.path[:] = [str(copy), *(p for p in sys.path if p not in ("", str(REPOSITORY)))]
    os.environ["PYTHONPATH"] = str(copy)
    # Bytecode of a file that was changed twice within a second would be taken for current.
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    runpy.run_path("tests/conftest.py")
    for name in PRELOADED:
        importlib.import_module(name)
    assert threading.active_count() == 1, "an import started a thread, so forking is not safe"
    assert not any(name.startswith("ipt_jax") for name in sys.modules)


def run_module(
    name: str, copy: pathlib.Path, out: pathlib.Path, count: int, seed: int, end: float
) -> None:
    """Tests a sample of a module's changes until `end`, a time of `time.monotonic`."""
    from cosmic_ray.commands import init
    from cosmic_ray.tools.filters.operators_filter import OperatorsFilter
    from cosmic_ray.tools.filters.pragma_no_mutate import PragmaNoMutateFilter
    from cosmic_ray.work_db import WorkDB, use_db

    files, tests = MODULES[name]
    began = time.monotonic()
    code, text = run_tests(tests, 900)
    if code:
        raise SystemExit(f"{name}: the tests fail without a change:\n{text[-4000:]}")
    # The second run has compiled programs in its cache, as those of the changed trees.
    began = time.monotonic()
    run_tests(tests, 900)
    usual = time.monotonic() - began
    limit = 30 + 4 * usual
    config = out / f"{name}.toml"
    config.write_text(CONFIG.format(files=files, timeout=limit, tests=" ".join(tests)))
    session = out / f"{name}.sqlite"
    session.unlink(missing_ok=True)
    with use_db(str(session), WorkDB.Mode.create) as database:
        init([pathlib.Path(file) for file in files], database, {})
        OperatorsFilter().filter(database, argparse.Namespace(config=str(config)))
        PragmaNoMutateFilter().filter(database, None)
        chosen = sample(list(database.pending_work_items), count, seed)
        print(f"{name}: {len(chosen)} changes, {usual:.0f} s each at most usually", flush=True)
        for number, item in enumerate(chosen):
            if time.monotonic() > end:
                print(f"{name}: {len(chosen) - number} left out for want of time", flush=True)
                break
            result = test_change(item, tests, limit)
            if result is not None:
                database.set_result(item.job_id, result)


def sample(items: list[Any], count: int, seed: int) -> list[Any]:
    """Returns `count` changes in random order: of different places, as far as there are enough."""

    def place(item: Any) -> tuple[str, tuple[int, int]]:
        return str(item.mutations[0].module_path), item.mutations[0].start_pos

    rng = random.Random(seed)
    # cosmic-ray draws the ids, so they are no order to start from.
    items = sorted(items, key=lambda i: (place(i), i.mutations[0].operator_name))
    rng.shuffle(items)
    rank: dict[Any, int] = {}
    ranked = []
    for item in items:
        rank[place(item)] = rank.get(place(item), -1) + 1
        ranked.append((rank[place(item)], item))
    return [item for _, item in sorted(ranked, key=lambda one: one[0])][:count]


def test_change(item: Any, tests: list[str], limit: float) -> Any:
    """Puts a change in, runs the tests and takes it out; returns cosmic-ray's result of it."""
    import cosmic_ray.plugins
    from cosmic_ray.mutating import use_mutation
    from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkResult

    change = item.mutations[0]
    operator = cosmic_ray.plugins.get_operator(change.operator_name)(**change.operator_args)
    with use_mutation(change.module_path, operator, change.occurrence) as (before, after):
        if after is None or after == before:
            return None
        code, text = run_tests(tests, limit)
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), str(change.module_path), "changed", "", "", 2, ""
    )
    return WorkResult(
        output=text[-4000:],
        diff="\n".join(lines),
        test_outcome=TestOutcome.KILLED if code else TestOutcome.SURVIVED,
        worker_outcome=WorkerOutcome.NORMAL,
    )


def run_tests(tests: list[str], limit: float) -> tuple[int, str]:
    """Runs tests in a fork until the first failure; returns its exit status and its output.

    Tests that take longer than `limit` seconds count as failed.
    """
    with tempfile.TemporaryFile() as output:
        process = os.fork()
        if not process:
            code = 1
            try:
                os.setsid()
                for stream in (1, 2):
                    os.dup2(output.fileno(), stream)
                import pytest

                code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
            finally:
                os._exit(code)
        end = time.monotonic() + limit
        status = None
        while status is None and time.monotonic() < end:
            found, raw = os.waitpid(process, os.WNOHANG)
            status = os.waitstatus_to_exitcode(raw) if found else None
            time.sleep(0.02)
        # Processes that the tests started are in the group of the fork.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
        if status is None:
            os.waitpid(process, 0)
            return 124, "timeout"
        output.seek(0)
        return status, output.read().decode(errors="replace")


def wilson(part: int, whole: int) -> tuple[float, float]:
    """Returns Wilson's 95 % interval of a share (Wilson, 1927)."""
    z, share = 1.959964, part / whole
    centre = share + z * z / (2 * whole)
    half = z * math.sqrt(share * (1 - share) / whole + z * z / (4 * whole * whole))
    return (centre - half) / (1 + z * z / whole), (centre + half) / (1 + z * z / whole)


def write_report(out: pathlib.Path) -> None:
    """Writes the table and the survivors of all sessions in the folder."""
    from cosmic_ray.work_db import WorkDB, use_db
    from cosmic_ray.work_item import TestOutcome

    rows, survivors = [], []
    for name in MODULES:
        if not (out / f"{name}.sqlite").exists():
            continue
        with use_db(str(out / f"{name}.sqlite"), WorkDB.Mode.open) as database:
            found = [r for _, r in database.results if r.test_outcome is not None]
            possible = database.num_work_items - sum(
                r.test_outcome is None for _, r in database.results
            )
        if not found:
            continue
        alive = [r for r in found if r.test_outcome == TestOutcome.SURVIVED]
        late = sum(r.output == "timeout" for r in found)
        noticed = len(found) - len(alive)
        low, high = wilson(noticed, len(found))
        rows.append(
            f"| {name} | {possible} | {len(found)} | {noticed} | {late} | "
            f"{noticed / len(found):.0%} ({low:.0%} to {high:.0%}) |"
        )
        survivors += [f"## {name}\n\n```diff\n{r.diff}\n```\n" for r in alive]
    head = "| module | possible | tried | noticed | of these by the time limit | share (95 %) |\n"
    (out / "table.md").write_text(head + "|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n")
    (out / "survivors.md").write_text("\n".join(survivors))


if __name__ == "__main__":
    sys.exit(main())
