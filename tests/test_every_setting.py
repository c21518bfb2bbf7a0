"""Every flag of every command and every config key has a test that fails where it does nothing.

tests/helpers/guards.py names the test of each setting. The first tests compare it with the parsers
and the table of keys. The last one runs each named test twice: as it is, and in a process in which
the setting is accepted and ignored (tests/helpers/ignoring).
"""

from __future__ import annotations

import ast
import functools
import os
import re
import subprocess
import sys

import guards
import places
import pytest
import settings_of

from tests.conftest import COLLECTED

# How a test says that it has noticed a difference. Without `launch/tpu.sh --wait`, a script waits;
# without `ipt evaluate --merge`, nothing says which images to score.
NOTICED = (
    "AssertionError|assert|Failed: DID NOT RAISE|subprocess.TimeoutExpired"
    "|ipt_jax.errors.UsageError: name the images"
)


def test_every_setting_is_guarded():
    settings = settings_of.every_setting()
    assert len(settings) == len(set(settings)) > 250
    missing = sorted(set(settings) - guards.GUARDS.keys())
    assert not missing, f"no test guards {missing}: name one in tests/helpers/guards.py"
    unknown = sorted(guards.GUARDS.keys() - set(settings))
    assert not unknown, f"tests/helpers/guards.py names {unknown}, which do not exist"


def test_no_flag_is_missed_in_a_help_text():
    for command, parser in settings_of.parsers().items():
        usage = parser.format_usage().split("COMMAND")[0]
        used = set(re.findall(r"--\w[\w-]*", usage))
        assert used <= set(settings_of.arguments_of(parser)), command


@functools.cache
def functions_in(file: str) -> set[str]:
    tree = ast.parse((places.ROOT / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_named_tests_exist(request):
    """Cases in brackets are known only of the files that pytest has collected completely."""
    collected = request.config.stash[COLLECTED]
    complete = not any("::" in word for word in request.config.args)
    files = {name.split("::")[0] for name in collected} if complete else set()
    for setting, test in guards.GUARDS.items():
        file, name = test.split("::")
        assert name.split("[")[0] in functions_in(file), f"{setting}: there is no {test}"
        assert file not in files or test in collected, f"{setting}: there is no case {test}"


def run(test: str, ignored: str) -> tuple[int, str]:
    """Returns pytest's exit code, 0 passed and 1 failed, and its summary of what failed."""
    environment = {
        **os.environ,
        "IPT_IGNORED": ignored,
        "PYTHONPATH": str(places.ROOT / "tests" / "helpers" / "ignoring"),
        # The summary is cut at the terminal's width.
        "COLUMNS": "500",
    }
    words = ["-q", "-x", "-n", "0", "-rfE", "-p", "no:cacheprovider", "-m", "", test]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        env=environment,
        cwd=places.ROOT,
        capture_output=True,
        text=True,
    )
    return done.returncode, "\n".join(re.findall("^(?:FAILED|ERROR) .*", done.stdout, re.M))


@functools.cache
def passes(test: str) -> bool:
    return run(test, "")[0] == 0


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("setting", guards.GUARDS)
def test_a_setting_without_effect_is_noticed(setting):
    assert passes(guards.GUARDS[setting])
    code, summary = run(guards.GUARDS[setting], setting)
    # Not because a fixture fails, or because of another error than that of the comparison.
    assert code == 1 and re.match(rf"(?:FAILED|ERROR) \S+.* - ({NOTICED})", summary), summary
