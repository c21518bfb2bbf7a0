"""A test notices when a flag or a config key does nothing: shown by taking its effect away.

Each test below runs the test that guards a setting, first as it is, and then in a process in which
the setting is accepted and ignored (tests/helpers/ignoring).
"""

from __future__ import annotations

import os
import subprocess
import sys

import places
import pytest

RESTORE = "tests/cli/test_flags_of_restore.py::"
SETTING = "test_a_flag_of_restore_is_the_setting_of_the_same_name"
SCORES = "test_scores_differ_where_a_flag_says_so"
WEIGHTS = "tests/cli/test_flags_of_weights.py::"
# A setting, and the test that fails without its effect.
GUARDS = {
    "ipt restore --ensemble": f"{RESTORE}{SETTING}[--ensemble]",
    "ipt restore --protocol": f"{RESTORE}{SETTING}[--protocol=official]",
    "ipt restore --overlap": f"{RESTORE}{SETTING}[--overlap=9]",
    "ipt restore --raw": f"{RESTORE}{SETTING}[--raw]",
    "ipt restore --dtype": f"{RESTORE}{SETTING}[--dtype=bfloat16]",
    "ipt restore --heads": f"{RESTORE}test_heads_and_tasks_of_an_authors_file",
    "ipt restore --weights-tasks": f"{RESTORE}test_heads_and_tasks_of_an_authors_file",
    "ipt evaluate --ensemble": f"{RESTORE}{SCORES}[--ensemble]",
    "ipt evaluate --protocol": f"{RESTORE}{SCORES}[--protocol=official]",
    "ipt evaluate --overlap": f"{RESTORE}{SCORES}[--overlap=9]",
    "ipt evaluate --raw": f"{RESTORE}{SCORES}[--raw]",
    "ipt evaluate --dtype": f"{RESTORE}{SCORES}[--dtype=bfloat16]",
    "ipt evaluate --seed": f"{RESTORE}{SCORES}[--seed=1]",
    "ipt evaluate --noise-clip": f"{RESTORE}{SCORES}[--noise-clip=off]",
    "ipt evaluate --limit": f"{RESTORE}{SCORES}[--limit=1]",
    "ipt evaluate --tasks": f"{RESTORE}{SCORES}[--task=denoise50]",
    "ipt export --overwrite": f"{WEIGHTS}test_an_export_replaces_a_result_only_if_asked_to",
    "ipt export --dtype": f"{WEIGHTS}test_tasks_and_dtype_of_an_export",
    "ipt serve --host": f"{WEIGHTS}test_where_the_page_listens_and_what_it_refuses",
    "ipt serve --port": f"{WEIGHTS}test_where_the_page_listens_and_what_it_refuses",
    "ipt serve --max-megapixels": f"{WEIGHTS}test_where_the_page_listens_and_what_it_refuses",
    "ipt bench restore --size": f"{WEIGHTS}test_bench_restore_measures_what_is_asked_for",
    "optim.b1": "tests/step/test_optim.py::test_adam_by_its_formula",
    "optim.b2": "tests/step/test_optim.py::test_adam_by_its_formula",
    "optim.eps": "tests/step/test_optim.py::test_adam_by_its_formula",
    "log.profile": ("tests/train/test_loop.py::test_a_trace_of_the_steps_that_log_profile_names"),
}


def run(test: str, ignored: str) -> int:
    """Returns pytest's exit code: 0 passed, 1 failed."""
    environment = {
        **os.environ,
        "IPT_IGNORED": ignored,
        "PYTHONPATH": str(places.ROOT / "tests" / "helpers" / "ignoring"),
    }
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", test]
    return subprocess.run(words, env=environment, cwd=places.ROOT, capture_output=True).returncode


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("setting", GUARDS)
def test_a_setting_without_effect_is_noticed(setting):
    assert run(GUARDS[setting], "") == 0
    assert run(GUARDS[setting], setting) == 1
