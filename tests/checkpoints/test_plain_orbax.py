"""A run's checkpoints are read by Orbax alone, in a process that does not import ipt_jax."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]

CHECK = """
import sys
assert not any(name.startswith("ipt_jax") for name in sys.modules)
print(record["meta"]["config"]["batch_size"], len(record["leaves"]), sum(
    leaf.size for leaf in jax.tree.leaves(params)), int(restored["state"]["step"]))
"""


@pytest.mark.slow
def test_the_lines_in_the_documentation_read_the_checkpoint_of_version_0_1(tmp_path):
    text = (ROOT / "docs" / "weights.md").read_text()
    (code,) = re.findall(r"```python\n([^`]*CheckpointManager[^`]*)```", text)
    folder = ROOT / "tests" / "compat" / "v0.1" / "run" / "checkpoints"
    code = code.replace("runs/demo/checkpoints", str(folder))
    done = subprocess.run(
        [sys.executable, "-c", code + CHECK],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=tmp_path,
        env={"JAX_PLATFORMS": "cpu", "PATH": "", "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    batch, leaves, size, step = map(int, done.stdout.split()[-4:])
    golden = np.load(ROOT / "tests" / "compat" / "v0.1" / "weights.npz")
    arrays = [golden[name] for name in golden.files if golden[name].dtype == np.float32]
    assert (batch, step) == (8, 12) and leaves > 10
    assert size == sum(array.size for array in arrays)
