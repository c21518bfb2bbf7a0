"""The program `ipt`: help texts, wrong usage, config overrides, and how the process ends."""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading

import pytest
import settings_of

from ipt_jax import errors
from ipt_jax.cli import app
from ipt_jax.cli.app import main, split_overrides

# Packages that take long to import.
SLOW = ("jax", "flax", "optax", "orbax", "grain", "tensorflow", "tensorflow_datasets", "matplotlib")


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a new Python process."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120
    )


def test_importing_the_package_imports_nothing_slow():
    slow = (*SLOW, "numpy", "cv2", "ml_collections", "importlib.metadata")
    done = run_python(f"import sys, ipt_jax; print([m for m in {slow} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_help_imports_nothing_slow():
    code = (
        "import sys; from ipt_jax.cli.app import make_parser; make_parser().format_help(); "
        f"print([m for m in {SLOW} if m in sys.modules])"
    )
    done = run_python(code)
    assert done.stdout.strip() == "[]", done.stderr


def test_module_and_help():
    done = subprocess.run(
        [sys.executable, "-m", "ipt_jax", "pretrain", "--help"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0
    assert "--workdir" in done.stdout and "--config.batch_size" in done.stdout


@pytest.mark.parametrize("command", settings_of.parsers())
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([*command.split()[1:], "--help"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {command} ")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["pretrian"], "unknown command 'pretrian' (did you mean 'pretrain'?); known: pretrain, "),
        (["bench", "stp"], "ipt bench: unknown command 'stp' (did you mean 'step'?); known: step"),
        (
            ["pretrain", "--config=configs/demo.py", "--workdir=x", "--workdr=y"],
            "ipt pretrain: unknown argument --workdr=y (did you mean '--workdir'?)",
        ),
        (
            ["bench", "data", "--config=configs/demo.py", "--worker=1"],
            "ipt bench data: unknown argument --worker=1 (did you mean '--workers'?)",
        ),
        (["--verson", "doctor"], "ipt: unknown argument --verson (did you mean '--version'?)"),
        (["evaluate", "--protocol=blond"], "ipt evaluate: argument --protocol: invalid choice"),
        (["doctor", "--config.steps=3"], "doctor has no config"),
        (["pretrain", "--config=configs/demo.py"], "--workdir"),
        (
            ["pretrain", "--config=configs/demo.py", "--workdir=x", "--config.stepz=1"],
            "unknown config key 'stepz'",
        ),
        (["pretrain", "--config=configs/demo.py", "--workdir=x", "--config.steps"], "has no value"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(arguments)
    except SystemExit as exit_:
        code = exit_.code
    printed = capsys.readouterr().err
    assert code == 2 and message in printed and len(printed.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_overrides_with_and_without_an_equals_sign():
    rest, overrides = split_overrides(
        ["pretrain", "--config=a.py", "--config.steps=3", "--config.data.dir", "b=c", "--workdir=w"]
    )
    assert rest == ["pretrain", "--config=a.py", "--workdir=w"]
    assert overrides == ["steps=3", "data.dir=b=c"]
    assert split_overrides(["pretrain", "--config.steps"]) == (["pretrain"], ["steps"])


@pytest.mark.parametrize("hangs", [True, False])
def test_a_thread_that_hangs_does_not_keep_the_program(hangs):
    """The thread ends after 20 s. Where the check finds it, the process does not wait for it."""
    code = f"""
import sys, threading, time
from ipt_jax import errors
from ipt_jax.cli.app import main
threading.Thread(target=time.sleep, args=(20 if {hangs} else 0.1,)).start()
errors.register_hang_check(lambda: {hangs})
began = time.monotonic()
import atexit
atexit.register(lambda: print("ended in the normal way"))
sys.exit(main())
"""
    done = run_python(code, "restore", "no-such-file.png", "--task", "sr2")
    assert done.returncode == 2 and "no-such-file.png" in done.stderr
    assert ("ended in the normal way" in done.stdout) != hangs


def test_threads_that_orbax_leaves_count_in_the_program_only():
    import ipt_jax.checkpoints.orbax_workarounds  # noqa: F401  registers the check

    class OrbaxThread(threading.Thread):
        __module__ = "orbax.checkpoint"

    end = threading.Event()
    thread = OrbaxThread(target=end.wait)
    assert not errors.threads_hang(program=True)
    thread.start()
    try:
        assert errors.threads_hang(program=True) and not errors.threads_hang(program=False)
    finally:
        end.set()
        thread.join()
    assert not errors.threads_hang(program=True)


def test_threads_that_wait_for_data_count_everywhere(monkeypatch):
    from ipt_jax.data import workers

    monkeypatch.setattr(workers, "ABANDONED", 0.01)
    end = threading.Event()
    items = workers.make_ahead(lambda step: end.wait(60), range(3), 0, 0, 1, stalled=0.1)
    with pytest.raises(errors.Stalled):
        next(items)
    try:
        assert errors.threads_hang(program=False)
    finally:
        end.set()


@pytest.mark.parametrize(
    "error, code",
    [
        *((kind("what happened"), 2) for kind in (errors.UserError, errors.DataError)),
        *((kind("what happened"), 2) for kind in (errors.Locked, errors.WeightsError)),
        *((kind("what happened"), 1) for kind in (errors.RunError, errors.CheckpointError)),
        (OSError("what happened"), 1),
        (KeyboardInterrupt(), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_one_line_and_its_kind_decides_on_the_exit_code(error, code, capsys):
    def fail(options: argparse.Namespace) -> int:
        raise error

    assert app._run(argparse.Namespace(run=fail)) == code
    expected = "interrupted" if isinstance(error, KeyboardInterrupt) else "what happened"
    assert capsys.readouterr().err == f"ipt: {expected}\n"
