"""The reference of config keys: the page in docs and `--help-config`."""

from __future__ import annotations

import subprocess
import sys

import places
import pytest

from ipt_jax.cli import main
from ipt_jax.config import reference
from ipt_jax.config.keys import TABLE


def test_the_page_is_current():
    page = (places.ROOT / "docs" / "config.md").read_text()
    assert page == reference.markdown(), (
        f"docs/config.md does not match the table of keys; write it again: {reference.COMMAND}"
    )


def test_the_page_has_a_row_for_each_key():
    rows = [line for line in reference.markdown().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [key.name for key in TABLE]
    assert all(row.replace(r"\|", "").count("|") == 6 for row in rows)


def test_the_text_fits_a_terminal():
    assert max(map(len, reference.text().splitlines())) <= 100


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_help_config(command, capsys):
    with pytest.raises(SystemExit) as exit:
        main([command, "--help-config"])
    assert not exit.value.code
    out = capsys.readouterr().out
    assert all(f"  {key.name}=" in out for key in TABLE)


def test_help_config_does_not_import_jax():
    code = (
        "import sys\n"
        "from ipt_jax.cli import main\n"
        "try:\n"
        "    main(['pretrain', '--help-config'])\n"
        "finally:\n"
        "    print({'jax', 'flax', 'optax', 'orbax', 'grain'} & set(sys.modules))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert out.stdout.splitlines()[-1] == "set()"


def test_help_config_survives_a_closed_pipe():
    command = f"{sys.executable} -m ipt_jax pretrain --help-config"
    out = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -1"], capture_output=True, text=True
    )
    assert (out.returncode, out.stderr) == (0, "")
