"""Completion by a real bash: what its function proposes for an unfinished line."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys

import places
import pytest

from ipt_jax.cli.app import main

# Packages that take long to import.
SLOW = ("jax", "flax", "optax", "orbax", "grain", "tensorflow", "matplotlib", "huggingface_hub")
LINES = {
    "ipt res": ["restore "],
    "ipt data p": ["prepare", "preview"],
    "ipt restore --weights-t": ["--weights-tasks "],
    "ipt restore a.png --task=sr2,deno": ["sr2,denoise30", "sr2,denoise50", "sr2,denoise"],
    "ipt restore a.png --weights ipt_s": ["ipt_small "],
    "ipt evaluate --protocol b": ["blend "],
    "ipt pretrain --config.optim.sch": ["--config.optim.schedule", "--config.optim.schedule_steps"],
    "ipt pretrain --config.optim.schedule=": ["cosine", "step", "constant", "wsd"],
    "ipt bench step --config.log.tensorboard ": ["true", "false"],
    "ipt pretrain --config=configs/dem": ["configs/demo.py "],
}
SCRIPT = """
set -u
eval "$(ipt completion bash)"
while IFS= read -r line; do
  COMP_LINE="$line" COMP_POINT=${#line} COMP_TYPE=9 COMPREPLY=()
  _python_argcomplete ipt
  printf '%s\\t' "${COMPREPLY[@]}"
  echo
done
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_proposes_what_may_follow(tmp_path):
    """The program is started as a user's shell starts it, and imports nothing slow."""
    imports = tmp_path / "imports"
    program = tmp_path / "ipt"
    words = [sys.executable, "-X", "importtime", "-m", "ipt_jax"]
    program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@" 2>>{imports}\n')
    program.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, "PYTHONPATH": str(places.ROOT)}
    done = subprocess.run(
        ["bash", "--norc", "-c", SCRIPT],
        input="\n".join(LINES) + "\n",
        capture_output=True,
        text=True,
        cwd=places.ROOT,
        env={**variables, "XDG_CACHE_HOME": str(tmp_path)},
        timeout=120,
    )
    proposed = [line.strip("\t").split("\t") for line in done.stdout.splitlines()]
    assert dict(zip(LINES, proposed, strict=True)) == LINES, done.stderr
    imported = {line.rsplit("|", 1)[-1].strip() for line in imports.read_text().splitlines()}
    assert "ipt_jax.config.keys" in imported and not imported & set(SLOW)


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh", "fish"])
def test_every_shell_has_code(shell, capsys):
    assert main(["completion", shell]) == 0
    assert "ipt" in capsys.readouterr().out


def test_without_argcomplete_the_program_works(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install argcomplete" in capsys.readouterr().err
