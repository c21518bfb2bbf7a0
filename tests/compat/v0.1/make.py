"""Writes the files of this folder with the code of commit ce9c175; see README.md.

PYTHONPATH=CLONE_OF_CE9C175 python make.py OUT
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import sys

# The flags of tests/conftest.py: the order of sums depends on them.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_cpu_multi_thread_eigen=false "
    "--xla_cpu_enable_concurrency_optimized_scheduler=false"
)

import jax
import numpy as np
from ipt_jax.checkpoint import Checkpoints

import ipt_jax
from ipt_jax import config as configs
from ipt_jax.export import export
from ipt_jax.train import pretrain

# Two tasks: sr2 has an up-sampling tail, denoise50 draws noise.
SETTINGS = {
    "model": {
        "features": 4,
        "patch": 2,
        "heads": 2,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "hidden": 8,
        "tile": 8,
        "start": "identity",
        "input_scale": 127.5,
    },
    "optim": {
        "schedule": "cosine",
        "learning_rate": 1e-3,
        "final_learning_rate": 1e-5,
        "warmup_steps": 2,
        "schedule_steps": 20,
        "ema": 0.9,
    },
    "tasks": ("sr2", "denoise50"),
    "batch_size": 8,
    "steps": 12,
    "devices": 1,
    "data": {"source": "embedded"},
    "checkpoint": {"every": 8, "keep": 2},
    "evaluate": {"every": 8, "size": 48, "batch": 4, "overlap": 2},
    "log": {"every": 4, "tensorboard": False},
}
# The step at which the resumed run ends.
END = 18


def leaves(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """The parameters, moments and EMA of a run's newest checkpoint, by path."""
    flat = {}
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        for part in ("params", "moments", "ema"):
            tree, meta = checkpoints.restore_params(part)
            assert meta["step"] == END
            for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
                name = "/".join(jax.tree_util.keystr((key,), simple=True) for key in path)
                flat[f"{part}/{name}"] = np.asarray(leaf)
    return flat


def processor() -> str:
    """A digest of the processor's features, which decide the last bits of sums; "" if unknown."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(" ".join(sorted(features.split())).encode()).hexdigest()[:16]


def main(out: pathlib.Path) -> None:
    """Makes the run, what is exported from it, and the arrays that tests compare with."""
    out.mkdir(parents=True)
    # Paths stay relative, so that no file names a folder of the machine.
    os.chdir(out)
    run = pathlib.Path("run")
    pretrain(configs.complete(SETTINGS), str(run))
    for name in ("curves.png", "compiled", "lock", "evaluation"):
        target = run / name
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)

    restorer = ipt_jax.load(str(run))
    export(restorer, pathlib.Path("weights"), "folder")
    export(restorer, pathlib.Path("weights.npz"), "npz")
    export(restorer, pathlib.Path("weights.safetensors"), "safetensors")
    for card in pathlib.Path().glob("*.card.*"):
        card.unlink()

    rng = np.random.default_rng(0)
    arrays = {"input": rng.integers(0, 256, (21, 19, 3)).astype(np.uint8)}
    tiles = arrays["input"][None, :8, :8].astype(np.float32)
    for task in restorer.tasks:
        arrays[f"restored/{task}"] = np.asarray(
            restorer.restore(arrays["input"].astype(np.float32), task=task, overlap=2)
        )
        arrays[f"applied/{task}"] = np.asarray(restorer.apply(tiles, task=task))
    np.savez_compressed("golden.npz", **arrays)

    shutil.copytree(run, "continued")
    pretrain(configs.complete({**SETTINGS, "steps": END}), "continued")
    flat = leaves(pathlib.Path("continued"))
    shutil.rmtree("continued")
    parameters = {name: leaf for name, leaf in flat.items() if name.startswith("params/")}
    np.savez_compressed("continued.npz", **parameters)
    record = {
        "settings": SETTINGS,
        "end": END,
        "versions": json.loads((run / "config.json").read_text())["versions"],
        "processor": processor(),
        "xla_flags": sorted(os.environ["XLA_FLAGS"].split()),
        "sha256": {
            name: hashlib.sha256(f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes()).hexdigest()
            for name, leaf in flat.items()
        },
    }
    pathlib.Path("record.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).absolute())
